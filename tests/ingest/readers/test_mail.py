"""Mail and mailboxes, made here by the standard library's writer and by hand."""

from email.message import EmailMessage, Message

import pytest

from ingest.errors import Rejected
from ingest.readers import mail
from ingest.readers.registry import read
from tests.ingest.readers.documents import check, reason_of

HEAD = b"Subject: Offer\nFrom: a@b.example\n"


def message(body: str = "", subject: str = "Größe & Preis – 中文") -> EmailMessage:
    made = EmailMessage()
    made["Subject"] = subject
    made["From"] = "Jürgen Müller <j@x.example>"
    made["To"] = "b@x.example, 山田 <c@x.example>"
    made["Date"] = "Fri, 23 Dec 2022 12:08:48 -0600"
    if body:
        made.set_content(body, cte="base64")
    return made


def test_a_mail_is_its_head_and_its_words() -> None:
    """Encoded headers and bodies are decoded; the subject is the title, sender and time are metadata."""
    document = check(read("a.eml", message("Schöne Grüße,\nJürgen\n").as_bytes()))
    assert document.text == (
        "Subject: Größe & Preis – 中文\nFrom: Jürgen Müller <j@x.example>\nTo: b@x.example, 山田 <c@x.example>\n"
        "Date: Fri, 23 Dec 2022 12:08:48 -0600\n\nSchöne Grüße,\nJürgen"
    )
    assert document.title == "Größe & Preis – 中文"
    assert document.metadata == {
        "from": "Jürgen Müller <j@x.example>",
        "to": "b@x.example, 山田 <c@x.example>",
        "date": "2022-12-23T12:08:48-06:00",
    }
    assert document.marks == ()
    assert document.content_type == "message/rfc822"


def test_the_plain_alternative_is_taken_unless_it_is_a_stub() -> None:
    """Of two alternatives one is read: the plain one, or the HTML one where the plain one has next to nothing."""
    both = message("The plain words of this letter.")
    both.add_alternative("<p>The rich words of this letter.</p>", subtype="html")
    assert "The plain words" in read("a.eml", both.as_bytes()).text
    assert "rich" not in read("a.eml", both.as_bytes()).text
    stub = message("See the HTML part.")
    stub.add_alternative(f"<style>p {{}}</style><p>{'Rich words. ' * 9}<p hidden>unseen", subtype="html")
    assert read("a.eml", stub.as_bytes()).text.endswith("Rich words.")


def test_an_attachment_without_a_name_is_read() -> None:
    """It is told by its bytes, as one with a name is, and listed."""
    letter = message("Words.")
    letter.add_attachment(rb"{\rtf1 Attached words.\par}", "application", "rtf")
    document = check(read("a.eml", letter.as_bytes()))
    assert document.text.endswith("Attachments: attachment\n\nWords.\n\nattachment\n\nAttached words.")


@pytest.mark.parametrize("kinds", [("plain", "html"), ("plain",), ("html",)])
def test_an_invitation_is_its_words(kinds: tuple[str, ...]) -> None:
    """A calendar's entry among the alternatives, however long, does not take the place of the words."""
    invitation = EmailMessage()
    invitation.make_alternative()
    for kind in kinds:
        invitation.add_alternative("Come to the budget meeting.", subtype=kind)
    invitation.add_alternative("BEGIN:VCALENDAR\r\n" + "X-NOTE:for programs only\r\n" * 40, subtype="calendar")
    assert read("a.eml", invitation.as_bytes()).text == "Come to the budget meeting."


def test_what_is_attached_in_an_alternative_is_read() -> None:
    """Apple Mail puts attachments inside the HTML alternative; with the plain one taken, they are read all the same."""
    rich = EmailMessage()
    rich.set_content("<p>The report.", subtype="html")
    rich.add_attachment("Revenue rose.", filename="report.txt")
    both = message("The report.")
    both.make_alternative()
    both.attach(rich)
    document = check(read("a.eml", both.as_bytes()))
    assert document.text.endswith("Attachments: report.txt\n\nThe report.\n\nreport.txt\n\nRevenue rose.")


def test_attachments_are_read_by_their_readers_and_named() -> None:
    """A text, a page and a mail in a mail stand under their names with their headings; a picture is only named."""
    made = message("See attached.")
    made.add_attachment("# Plan\n\nfirst\n\n## Costs\n\nsecond\n", filename="plän.md")
    made.add_attachment(b"\x89PNG\r\n\x1a\nxx", maintype="image", subtype="png", filename="a.png")
    made.add_attachment("Unknown kind of text", filename="notes.xyz")
    made.add_attachment(message("Inner words.", subject="Inside"))
    document = check(read("a.eml", made.as_bytes()))
    assert "Attachments: plän.md, a.png, notes.xyz\n" in document.text
    assert document.metadata["attachments"] == "plän.md, a.png, notes.xyz"
    paths = {section.heading_path[1:]: document.text[section.start : section.end] for section in document.sections}
    assert paths[("plän.md", "Plan", "Costs")] == "## Costs\n\nsecond\n\n"
    assert "Unknown kind of text" in paths[("notes.xyz",)]
    assert paths[("Inside",)].endswith("Inner words.")
    assert "PNG" not in document.text


@pytest.mark.parametrize(
    ("charset", "raw", "words"),
    [
        ("iso-8859-1", "naïve café".encode("cp1252"), "naïve café"),
        ("us-ascii", "schön".encode(), "schön"),
        ("utf-8", "schön war es".encode("cp1252"), "schön war es"),
        ("no-such-charset", b"plain", "plain"),
        ("gb2312", "简体中文".encode("gbk"), "简体中文"),
        ("iso-2022-jp", "日本語".encode("iso2022_jp"), "日本語"),
        ("", "Съешь ещё этих мягких булок".encode("koi8-r"), "Съешь ещё этих мягких булок"),
    ],
)
def test_charsets_that_lie_are_survived(charset: str, raw: bytes, words: str) -> None:
    """The declared charset counts where the bytes allow it."""
    data = (
        HEAD + b"Content-Type: text/plain; charset=" + charset.encode() + b"\nContent-Transfer-Encoding: 8bit\n\n" + raw
    )
    assert read("a.eml", data).text.endswith(f"\n\n{words}")


def test_broken_heads_and_bodies_are_read_as_far_as_they_go() -> None:
    """Raw bytes and broken encoded words in headers, a missing boundary, broken base64: what can be read is."""
    raw = "Subject: grün =?utf-8?q?=FF?= =?x?b?!?=\nDate: never\nContent-Type: multipart/mixed; boundary=none\n\nwords"
    document = check(read("a.eml", raw.encode()))
    assert document.text.startswith("Subject: grün")
    assert "date" not in document.metadata
    assert "words" in read("a.eml", HEAD + b"Content-Transfer-Encoding: base64\n\nd29yZHM=!!").text
    assert "words" in read("a.eml", b"no head at all\n\nwords").text
    assert read("a.eml", message("wörter").as_string().encode("utf-16")).text.endswith("wörter")


def test_encrypted_mail_says_so() -> None:
    """PGP and S/MIME mail is `password`, in its own words; beside an encrypted part the rest is read."""
    pgp = b"-----BEGIN PGP MESSAGE-----\n\nhIwDY32hYGCE8MkB\n-----END PGP MESSAGE-----\n"
    for data in (
        HEAD + b"Content-Type: multipart/encrypted; boundary=f\n\n--f\n\nVersion: 1\n--f\n\n" + pgp + b"--f--",
        HEAD + b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nMIAG",
        HEAD + b"\n" + pgp,
    ):
        with pytest.raises(Rejected, match=r"password: the mail is encrypted .* save a decrypted copy"):
            read("a.eml", data)
    mixed = b"Content-Type: multipart/mixed; boundary=f\n\n--f\n\nplain words\n--f\n\n" + pgp + b"--f--"
    document = check(read("a.eml", HEAD + mixed))
    assert document.metadata["encrypted_parts"] == 1
    assert document.text.endswith("plain words")


def mailbox(*messages: Message) -> bytes:
    lines = [b"From a@b.example Thu Jan  1 00:00:00 2024\n" + each.as_bytes() + b"\n" for each in messages]
    return b"".join(lines)


def test_a_mailbox_is_cut_into_its_messages() -> None:
    """Each message is a section under its subject and a position; `>From ` in a text becomes `From `."""
    data = mailbox(message(subject="One"), message(subject="Two"))
    data += b"From c@d.example Thu Jan  1 00:00:00 2024\nSubject: Three\n\n>From here on.\n\nFrom now on, 2024\n"
    document = check(read("Inbox", data))
    assert document.content_type == "application/mbox"
    assert [section.heading_path for section in document.sections] == [("One",), ("Two",), ("Three",)]
    assert [mark.position for mark in document.marks] == [{"message": 1}, {"message": 2}, {"message": 3}]
    assert [mark.start for mark in document.marks] == [section.start for section in document.sections]
    assert document.text.endswith("Subject: Three\n\nFrom here on.\n\nFrom now on, 2024")
    assert document.metadata["messages"] == 3
    assert document.title == ""
    single = check(read("a.mbox", mailbox(message("words"))))
    assert single.title == "Größe & Preis – 中文"
    assert single.marks == ()


def test_mis_decoded_mail_is_repaired() -> None:
    """A body that was mis-decoded before it was sent reads as it was meant, and the document says so."""
    body = "Grüße aus München, schöne Straße".encode().decode("latin-1")
    document = check(read("a.eml", message(body).as_bytes()))
    assert document.text.endswith("Grüße aus München, schöne Straße")
    assert document.metadata["repaired"] == "mojibake"
    assert document.metadata["repaired_places"] == 5


def nested(depth: int) -> bytes:
    data = HEAD + b"\ninnermost"
    for _ in range(depth):
        data = HEAD + b"Content-Disposition: attachment; filename=a.eml\nContent-Type: application/x\n\n" + data
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD + b"Content-Type: message/rfc822\n\n" * 3_000 + b"\nx", "limit"),
        (b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(2_000)), "limit"),
        (b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(60)), "limit"),
        (b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d--\n" % (n, n) for n in range(60)), "empty"),
        (HEAD + b"Content-Type: text/plain; " + b"a*0=b; " * 100_000 + b"\n\nx", "limit"),
        (nested(2), ""),
        (nested(500), ""),
        (b"Subject:\n\n ", "empty"),
        (HEAD + b"\n" + "юяж".encode("koi8-r") * 9 + bytes(range(128, 256)) * 9, "encoding"),
    ],
)
def test_hostile_mail_is_bounded(data: bytes, reason: str) -> None:
    """Deep nesting and endless fields are `limit`; mails in mails are read a few deep; nothing crashes."""
    assert reason_of("a.eml", data) == reason


def test_mails_in_mails_are_read_a_few_deep() -> None:
    """A mail attached as a file is read, and one in it; what lies deeper is but named."""
    assert "innermost" in read("a.eml", nested(2)).text
    assert "innermost" not in read("a.eml", nested(6)).text


def test_too_many_messages_and_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both numbers are bounded."""
    monkeypatch.setattr(mail, "MAX_MESSAGES", 3)
    assert reason_of("a.mbox", mailbox(*[message("x")] * 3)) == ""
    assert reason_of("a.mbox", mailbox(*[message("x")] * 4)) == "limit"
    monkeypatch.setattr(mail, "MAX_PARTS", 2)
    assert reason_of("a.mbox", mailbox(*[message("x")] * 3)) == "limit"


@pytest.mark.parametrize(
    ("name", "data"), [("a.pdf", b"%PDF-1.4 and nothing more"), ("a.zip", b"PK\x03\x04"), ("a.md", b"")]
)
def test_an_attachment_that_can_not_be_read_stays_a_name(name: str, data: bytes) -> None:
    """A broken, an unknown and an empty attachment are named; the mail is read, with or without words of its own."""
    for body in ("See attached.", ""):
        made = message(body)
        made.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
        document = check(read("a.eml", made.as_bytes()))
        assert document.text.endswith(f"Attachments: {name}\n\n{body}".strip())
