"""What an address says by itself."""

from ipaddress import ip_address


def is_loopback(address: str) -> bool:
    """Whether an address, by its name alone, leads back to the machine that uses it."""
    if address.lower().partition(".")[0] == "localhost" or address.lower().endswith(".localhost"):
        return True
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
