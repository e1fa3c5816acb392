"""What a request says about the device it comes from, in words and as a place in the network."""

from ipaddress import IPv6Address, ip_address, ip_network


def browser_name(user_agent: str | None) -> str:
    """Return a browser in words a person recognises, such as "Firefox on Linux"."""
    text = user_agent or ""
    browsers = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Safari", "Safari"))
    systems = (
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Android", "Android"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    )
    browser = next((name for mark, name in browsers if mark in text), None)
    system = next((name for mark, name in systems if mark in text), None)
    if browser is None:
        return text.split("/")[0][:40] or "Unknown browser"
    return f"{browser} on {system}" if system else browser


def network_of(address: str | None, *, bits_of_4: int, bits_of_6: int) -> str | None:
    """Return the network an address belongs to, so wide: `network_of("192.0.2.7", bits_of_4=24, ...)` is 192.0.2.0/24.

    None for what is no address; an inherited row may hold anything. An IPv4 address in IPv6 clothes is IPv4.
    """
    try:
        found = ip_address(address or "")
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    bits = bits_of_4 if found.version == 4 else bits_of_6
    network = ip_network(f"{found}/{bits}", strict=False)
    return str(found) if network.num_addresses == 1 else str(network)
