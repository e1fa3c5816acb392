"""The invented people of the demonstration, where they come from, and what they ask."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Character:
    """Somebody invented; the address is at example.com, which belongs to nobody (RFC 2606)."""

    name: str
    address: str
    role: str
    company: str | None = None


PEOPLE = (
    Character("Thandi Nkosi", "thandi.nkosi", "client", "Harbour Lantern Tours"),
    Character("Sipho Mahlangu", "sipho", "developer"),
    Character("Naledi Mokoena", "naledi.mokoena", "client", "Karoo Honey Collective"),
    Character("Pieter van der Merwe", "pieter.vdm", "client", "Van der Merwe Windpumps"),
    Character("Zanele Khumalo", "zanele+control", "developer", "Blue Crane Logistics"),
    Character("Fatima Adams", "fatima.adams", "client", "Bo-Kaap Bakery"),
    Character("Johan Botha", "johan.botha", "client"),
    Character("Lerato Molefe", "lerato", "developer", "Molefe Maps"),
    Character("Priya Naidoo", "priya.naidoo", "client", "Umhlanga Physiotherapy"),
    Character("Kagiso Tau", "kagiso.tau", "developer"),
    Character("Anika du Plessis", "anika.duplessis", "client", "Fynbos & Fold"),
    Character("Themba Ngcobo", "themba.ngcobo", "client", "Drakensberg Guides"),
    Character("Ayesha Patel", "ayesha.patel", "developer", "Signal Hill Software"),
    Character("Riaan Steyn", "riaan", "client", "Steyn Boats"),
    Character("Nomvula Zulu", "nomvula.zulu", "client"),
    Character("Lindiwe Mthembu", "lindiwe", "developer", "Mthembu & Daughters"),
    Character("Siobhán O'Connor", "siobhan.oconnor", "client"),
    Character("Mateo Fernández", "mateo.fernandez", "developer", "Dos Océanos"),
    Character("Olena Kovalenko", "olena.kovalenko", "developer"),
    Character("Kwame Mensah", "kwame.mensah", "client", "Volta Textiles"),
    Character("Wei Zhang", "wei.zhang", "client"),
    Character("Björn Lindqvist", "bjorn.lindqvist", "developer", "Fyr Analys"),
    Character("Amara Okafor", "amara.okafor", "client", "Okafor Legal"),
    Character("Yuki Tanaka", "yuki.tanaka", "developer"),
)

# Each is one conversation: the messages a person sends in it, one after the other.
TALKS: tuple[tuple[str, ...], ...] = (
    ("Hello! What can I do with Cape Control?", "And what can it not do yet?"),
    ("How long does my password have to be?", "Do I need a capital letter and a digit?"),
    ("I deleted a conversation by mistake. Can I get it back?",),
    ("How do I rename a conversation?", "And how do I put one away without deleting it?"),
    ("Somebody tried to sign in with my account, what should I do?",),
    ("Is there an API?", "How do I get a token?", "How long does the token last?"),
    ("Can I use it on my phone and on my computer at the same time?",),
    ("How do I see where I am signed in?", "How do I end the session on my old laptop?"),
    ("Who can read my messages?",),
    ("Can I share a conversation with a colleague?",),
    ("How do I write a table with Markdown?", "And code with colours?"),
    ("What does the audit log hold?", "Can anybody delete from it?"),
    ("I forgot my password.",),
    ("Does it work without JavaScript?", "Is there a dark theme?"),
    ("Which cookies do you use?",),
    ("What is an idempotency key?",),
    ("How do I run this on my own machine?", "How do I make the first administrator?"),
    ("What is the weather in Cape Town tomorrow?",),
    ("Where do the answers come from? Is this an AI?",),
    ("My internet was cut while I was writing. Is my message lost?",),
    ("How do I export my conversations?",),
    ("It says we are busy right now. What does that mean?",),
    ("Can I attach a photo?",),
    ("What is the request number on an error page for?",),
    ("How do I stay signed in?", "Is that safe on a shared computer?"),
    ("Can I change my e-mail address?",),
    ("How long can a message be?",),
)

BROWSERS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.1 "
    "Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 16; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile "
    "Safari/537.36",
    "python-requests/2.34.2",
)

STRANGERS = ("203.0.113.77", "198.51.100.210", "2001:db8:bad::1")
"""Addresses that refused attempts come from: like everybody's here, of the ranges kept for documents (RFC 5737)."""

GUESSED = ("admin@example.com", "info@example.com", "root@example.com", "sales@example.com")
