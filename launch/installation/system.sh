# The distribution's packages: which manager there is, whether it may install, and how. To be sourced, or called:
#
#   bash launch/installation/system.sh manager           prints apt-get or dnf; status 1 where there is neither
#   bash launch/installation/system.sh may_install       status 0 for root, and where sudo asks for no password
#   bash launch/installation/system.sh install_packages NAME...   installs by the manager's names

manager() { command -v apt-get >/dev/null && echo apt-get || { command -v dnf >/dev/null && echo dnf; }; }

may_install() { [[ "$(id -u)" == 0 ]] || sudo -n true 2>/dev/null; }

# sudo drops the environment, and with it the way through a proxy.
as_root() {
    local -a settings=(DEBIAN_FRONTEND=noninteractive)
    local name
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [[ -z "${!name:-}" ]] || settings+=("$name=${!name}")
    done
    if [[ "$(id -u)" == 0 ]]; then env "${settings[@]}" "$@"; else sudo -n env "${settings[@]}" "$@"; fi
}

# updated APT-GET OPTIONS...: its lists are read anew. It waits for the lock over packages by itself, but not for that over the
# lists, which another apt-get may hold for minutes.
updated() {
    local said waited
    for ((waited = 0; waited < 300; waited++)); do
        said="$(as_root "$@" update 2>&1)" && return
        [[ "$said" == *"Could not get lock"* ]] || break
        sleep 1
    done
    printf '%s\n' "$said" >&2
    return 1
}

install_packages() {
    case "$(manager)" in
        apt-get)
            local -a apt=(apt-get -y -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5)
            updated "${apt[@]}" && as_root "${apt[@]}" install --no-install-recommends "$@"
            ;;
        dnf) as_root dnf -y -q --setopt=install_weak_deps=False install "$@" ;;
        *) return 1 ;;
    esac
}

# Rocky and Alma 9 have 3.9 as python3; newer ones stand beside it.
install_python() {
    case "$(manager)" in
        apt-get) install_packages python3 python3-venv ;;
        dnf) install_packages python3.12 || install_packages python3 ;;
    esac
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
    set -euo pipefail
    "$@"
fi
