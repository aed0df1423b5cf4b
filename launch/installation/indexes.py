"""Where packages come from: what pip is told about indexes, folders of wheels and certificates, said to uv as well."""

import ast
import subprocess
from collections.abc import Mapping

# pip's setting; uv's option for each of its values; the variables by which a user tells uv himself.
_OPTIONS = (
    ("index-url", "--default-index", ("UV_DEFAULT_INDEX", "UV_INDEX_URL")),
    ("extra-index-url", "--index", ("UV_INDEX", "UV_EXTRA_INDEX_URL")),
    ("find-links", "--find-links", ("UV_FIND_LINKS",)),
    ("trusted-host", "--allow-insecure-host", ("UV_INSECURE_HOST",)),
)


def pip_settings(python: str) -> dict[str, str]:
    """pip's own settings for installing, from its files and the environment, by their names in its configuration."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    scopes: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        scope, _, name = key.partition(".")
        if scope in scopes:
            scopes[scope][name] = str(ast.literal_eval(value))
    # pip's own order: a command's section goes before the common one, the environment before both.
    return scopes["global"] | scopes["install"] | scopes[":env:"]


def uv_options(pip: Mapping[str, str], variables: Mapping[str, str]) -> list[str]:
    """uv's options that say what `pip_settings` says, but for what `variables` tell uv already."""
    # pip looks at all indexes and takes the best version; uv would stop at the first index that knows a name.
    options = [] if "UV_INDEX_STRATEGY" in variables else ["--index-strategy", "unsafe-best-match"]
    alone = pip.get("no-index", "").lower() in ("1", "true", "yes", "on")
    for setting, option, theirs in _OPTIONS:
        if not any(name in variables for name in theirs) and not (alone and "index-url" in setting):
            options += [word for value in pip.get(setting, "").split() for word in (option, value)]
    return [*options, "--no-index"] if alone else options


def uv_variables(pip: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """What uv reads from its environment only: certificates, the proxy, and pip's patience with slow networks."""
    chosen = {"UV_HTTP_TIMEOUT": pip.get("timeout") or pip.get("default-timeout") or "180"}
    if "cert" in pip:
        chosen["SSL_CERT_FILE"] = pip["cert"]
    if "proxy" in pip:
        chosen |= {"HTTP_PROXY": pip["proxy"], "HTTPS_PROXY": pip["proxy"]}
    return {name: value for name, value in chosen.items() if name not in variables}
