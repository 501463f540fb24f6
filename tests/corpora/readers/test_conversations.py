"""Chats, subtitles, meetings and exports: who says what, and what is refused because it is not certain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.fuzz_readers import EXAMPLES, outcomes
from lantern.corpora.readers.conversations import read_transcript
from lantern.errors import UserError

Turns = list[tuple[str, str]]
S = "12/03/2024, 10:15 - "
TWO = [("Mira", "Did you see them?"), ("Olek", "Not me.")]


def turns(path: Path, text: str | None = None, speakers: tuple[str, ...] = ()) -> Turns:
    if text is not None:
        path.write_text(text, encoding="utf-8")
    return [(u.speaker, u.text) for dialogue in read_transcript(path, speakers) for u in dialogue.utterances]


def srt(*cues: str) -> str:
    return "".join(f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{cue}\n\n" for n, cue in enumerate(cues, 1))


def vtt(*cues: str) -> str:
    return "WEBVTT\n\n" + "".join(f"00:0{n}.000 --> 00:0{n}.900\n{cue}\n\n" for n, cue in enumerate(cues, 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "chat-multiline-colon.txt",
            [
                ("Mira", "Shopping for tonight Milk: two bottles Bread: one"),
                ("Olek", "No, that was not me! And: my hands are clean."),
                ("Mira", "Coward."),
            ],
        ),
        (
            "cue-sentence-colon.srt",
            [
                ("MIRA", "Where are they?"),
                ("MIRA", "There is one thing: nobody did it."),
                ("OLEK", "Well."),
                ("OLEK", "On the other hand, listen: go home."),
            ],
        ),
        (
            "voice-sentence-colon.vtt",
            [("Mira Holm", "I have one question which is this: where is it?"), ("Olek", "Well.")],
        ),
        (
            "chevron-names.vtt",
            [("MIRA", "Where are the biscuits?"), ("OLEK", "Not here, I think."), ("MIRA", "Where then?")],
        ),
        (
            "two-voices-one-line.vtt",
            [("Mira Holm", "Did you see them?"), ("Mira Holm", "Hm."), ("Olek", "Hm yourself.")],
        ),
        ("name-own-line.srt", [("OLEK", "Well?"), ("MIRA", "What are you going to do?"), ("OLEK", "Nothing.")]),
        ("no-blank-line.srt", [("Mira", "Where are they?"), ("Olek", "Not here."), ("Mira", "Hm.")]),
        ("blank-line-in-cue.srt", [("MIRA", "I am stuck at work, I shall be ten minutes late."), ("OLEK", "Fine.")]),
        ("cue-entities.vtt", [("Mira", "Salt & pepper <3"), ("Olek", "Both please")]),
        ("chat-stamp-klo.txt", [*TWO, ("Mira", "Hm.")]),
        ("chat-stamp-french.txt", TWO),
        ("chat-name-quotes.txt", [("Mira", "Hello"), ('Olek "the Ox" B.', "Hello you"), ("Mira", "Biscuits?")]),
        ("chat-caption-lost.txt", [("Mira", "look at this mess!"), ("Olek", "Oh no.")]),
        ("chat-placeholders.txt", [("Olek", "Fine.")]),
        ("zoom-chat.txt", [("Mira Holm", "Did you see the biscuits?"), ("Olek", "Not me.")]),
        ("name-then-time.txt", [("Mira Holm", "Welcome all."), ("Olek", "That's right.")]),
        ("otter.txt", [("Mira Holm", "Welcome all. There is one thing: go."), ("Olek", "That's right.")]),
        ("rev.txt", [("Mira Holm", "Welcome all."), ("Olek", "That's right at 10:15")]),
        ("teams.txt", [("Mira Holm", "Welcome all."), ("Olek", "Right: yes.")]),
        ("meet.txt", [("Mira Holm", "Welcome all."), ("Olek", "Right."), ("Mira Holm", "Bye.")]),
        ("discord.txt", [("mira", "Hello there friends: all"), ("olek", "Hi")]),
        ("whatsapp-ios.txt", [("Mira", "caption"), ("Olek", "ok"), ("Olek", "yes and: more")]),
        ("whatsapp-system.txt", [("Mira", "Hello"), ("Olek", "He said: no")]),
        ("notes.vtt", [("Mira", "Hm"), ("Olek", "No")]),
        ("telegram.json", [("Mira", "see http://x"), ("user5", "hi")]),
        ("discord.json", [("Mira", "hi"), ("olek", "no")]),
        ("slack.json", [("Mira", "hi @U2 & site"), ("U2", "yo")]),
        ("signal.json", [("Mira", "hi")]),
        ("messenger.json", [("Mira", "hi"), ("Olék", "no")]),
        (
            "chat.cha",
            [("CHI", "more cookie."), ("MOT", "you want you want another um cookie please?"), ("CHI", "uh ice cream")],
        ),
    ],
)
def test_an_example(name: str, expected: Turns) -> None:
    assert turns(EXAMPLES / name) == expected


def test_times_are_those_of_each_cue() -> None:
    (dialogue,) = read_transcript(EXAMPLES / "no-blank-line.srt")
    assert [u.times for u in dialogue.utterances] == [(1, 2), (2, 3), (4, 5)]


def test_two_dashes_are_never_one_turn() -> None:
    with pytest.raises(UserError, match=r"line 7: '- Not here.' does not say who speaks; write '- Name: text'"):
        read_transcript(EXAMPLES / "dash-two-speakers.srt")


def test_what_is_left_out_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    read_transcript(EXAMPLES / "chat-placeholders.txt")
    assert "skipped 3 lines that are no speech: 3 placeholder or deleted" in caplog.text


@pytest.mark.parametrize(
    "stamp",
    [
        *("12.3.2024 klo 10.15 - ", "[12.3.2024 klo 10.15.07] ", "12.3.2024 kl. 10.15 - ", "12/03/2024 à 10:15 - "),
        *(
            "12.03.24, 10:15 Uhr - ",
            "12/03/2024 um 10:15 - ",
            "12. März 2024 um 10:15 - ",
            "12.3.2024, klo 10.15 ip. - ",
        ),
        *(
            "12/03/24 10:15 a.\u00a0m. - ",
            "3/12/24, 10:15\u202fAM - ",
            "[3/12/24, 10:15:07\u202fPM] ",
            "12/03/2024 10h15 - ",
        ),
        *("2024年3月12日 上午10:15 - ", "2024. 3. 12. 오전 10:15, ", "12/03/2024 às 10:15 - ", "12.03.2024 в 10:15 - "),
        *("\u200f١٢\u200f/٣\u200f/٢٠٢٤، ١٠:١٥ ص - ", "12/3/2024, 10:15 μ.μ. - ", "2024. márc. 12., 10:15 - "),
        *("[10:15, 12/03/2024] ", "(12/03/2024 10:15) ", "Mar 12, 2024 10:15 PM - ", "12 de marzo de 2024 10:15 - "),
        *("2024-03-12T10:15:07+01:00 ", "Tue, 12 Mar 2024 10:15 - ", "12/03/2024, 22:15 – ", "2024/03/12 10:15 - "),
        *("[12:03] ", "12:03 - ", "12:03:44 ", "12/03/2024 ore 10:15 - ", "12/03/2024, 10:15 PM - ~\u202f"),
        *("[12-Mar-24 10:15 AM] ", "[12-März-2024 22:15] ", "12/3/24, 10:15\u202fp.\u202fm. - "),
    ],
)
def test_a_stamp_of_any_language_is_no_name(tmp_path: Path, stamp: str) -> None:
    text = f"{stamp}Mira: Did you see them?\n{stamp}Olek: Not me.\n"
    assert turns(tmp_path / "a.txt", text) == TWO


@pytest.mark.parametrize(
    "name",
    [
        *("Mira <3", "🦊", "12345", "+49 170 123456", "Mr. Holm, B.Sc.", "O'Ox-Holm", "“Ox”", "Mira (work)", "米拉"),
        "Olek from the climbing gym (call before ten, never on Sundays please)",
    ],
)
def test_a_contacts_name_holds_any_sign(tmp_path: Path, name: str) -> None:
    text = f"{S}{name}: Hello\n{S}Olek: Hi: you\n"
    assert turns(tmp_path / "a.txt", text) == [(name, "Hello"), ("Olek", "Hi: you")]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        *((text, "") for text in ("<Medien ausgeschlossen>", "<Médias omis>", "<Multimedia omitido>", "null", "")),
        *((text, "") for text in ("Diese Nachricht wurde gelöscht.", "Ce message a été supprimé", "Mensagem apagada")),
        *((text, "") for text in ("Eliminaste este mensaje", "Tämä viesti poistettiin", "You deleted this message")),
        *((text, "") for text in ("video omitted", "Bild weggelassen", "Missed voice call", "IMG-20240312-WA0001.jpg")),
        *((text, "") for text in ("my cat.jpg (Datei angehängt)", "PTT-20240312-WA0003.opus (fichier joint)")),
        *((text, "") for text in ("<attached: 1.jpg>", "\u200eimage omitted", "report.pdf (file attached)")),
        *(
            (text, "")
            for text in ("<メディアは含まれていません>", "<省略多媒体文件>", "<ไม่รวมไฟล์สื่อ>", "Joined the server.")
        ),
        *((text, text) for text in ("<大爆笑>", "<смеётся>")),
        ("<Media omitted> look", "look"),
        ("IMG-20240312-WA0001.jpg (archivo adjunto)\nmira: qué lío", "mira: qué lío"),
        ("look \u200e<attached: 1.jpg>", "look"),
        ("Fine. \u200e<This message was edited>", "Fine."),
        ("Gut. <Diese Nachricht wurde bearbeitet.>", "Gut."),
        ("two\nlines <Ce message a été modifié>", "two lines"),
        ("I love you <3", "I love you <3"),
        ("<grin>", "<grin>"),
        ("report.pdf (see page 3)", "report.pdf (see page 3)"),
        ("This message was deleted by mistake", "This message was deleted by mistake"),
        ("null and void", "null and void"),
    ],
)
def test_placeholders_are_no_words_and_captions_are(tmp_path: Path, message: str, words: str) -> None:
    expected = [("Mira", words)] if words else []
    assert turns(tmp_path / "a.txt", f"{S}Mira: {message}\n{S}Olek: Hi\n") == [*expected, ("Olek", "Hi")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mira: Hello\nThere is one thing: go\nOlek: no\n", [("Mira", "Hello There is one thing: go"), ("Olek", "no")]),
        ("mira: one\nolek: two\n", [("mira", "one"), ("olek", "two")]),
        ("米拉：你好\n奥列克：不是我\n", [("米拉", "你好"), ("奥列克", "不是我")]),
        ("Mira : salut\nOlek : non : jamais\n", [("Mira", "salut"), ("Olek", "non : jamais")]),
        (
            "[SPEAKER_00]: one\nSpeaker 2: two\nA: three\n",
            [("SPEAKER_00", "one"), ("Speaker 2", "two"), ("A", "three")],
        ),
        ('Mira <3: hi\n"Ox" Olek: hey\n🦊: yo\n', [("Mira <3", "hi"), ('"Ox" Olek', "hey"), ("🦊", "yo")]),
        ("Mira: 10:30 works\nOlek: 11:00 is better\n", [("Mira", "10:30 works"), ("Olek", "11:00 is better")]),
        ("Mira: 00:00:00 Hi\nOlek: 00:00:05 Bye at 10:00\n", [("Mira", "Hi"), ("Olek", "Bye at 10:00")]),
        ("Mira (00:00): Hi\nOlek (00:05): Bye\n", [("Mira", "Hi"), ("Olek", "Bye")]),
        ("Mira: (00:00)\nHi\n\nOlek: (00:05)\nBye\n", [("Mira", "Hi"), ("Olek", "Bye")]),
        ("[Mira] 10:15:00\nHi\n\n[Olek] 10:15:07\nBye\n", [("Mira", "Hi"), ("Olek", "Bye")]),
        ("Mira 10:15 AM\nsee you at 10:30\nOlek 10:16 AM\nBye\n", [("Mira", "see you at 10:30"), ("Olek", "Bye")]),
        ("mira — Today at 10:15 AM\nHi\nolek — Today at 10:16 AM\nBye\n", [("mira", "Hi"), ("olek", "Bye")]),
        ("Mira Holm | 00:01\nHi\nOlek | 00:05\nBye\n", [("Mira Holm", "Hi"), ("Olek", "Bye")]),
        ("[00:00:05] Mira: Hi\n[00:00:09] Olek: Bye: you\nmore: x\n", [("Mira", "Hi"), ("Olek", "Bye: you more: x")]),
        ("00:00:05 Mira\nHi\n\n00:00:09 Olek\nBye\n", [("Mira", "Hi"), ("Olek", "Bye")]),
        (
            "10:15:00\t From Mira to Everyone:\n\tHi: all\n10:16:00\t From Olek to Mira(Direct Message):\n\tBye\n",
            [("Mira", "Hi: all"), ("Olek", "Bye")],
        ),
        ("10:15:00\tVon Mira an Alle : Hi\n10:16:00\tVon Olek an Alle : Bye\n", [("Mira", "Hi"), ("Olek", "Bye")]),
        (f"Chat with Olek\n\n{S}Mira: Hi\n{S}Olek: Bye\n", [("Mira", "Hi"), ("Olek", "Bye")]),
        ("Mira (00:00):\nHi\n\n(00:30):\nmore\n\nOlek (01:05):\nBye\n", [("Mira", "Hi more"), ("Olek", "Bye")]),
        ("Mira: Hi\nOlek: Bye\nMeeting ended after 00:05:10 👋\n", [("Mira", "Hi"), ("Olek", "Bye")]),
        (
            "Mira: Hi (Olek: he) there\nOlek: Bye, Mira: x\n",
            [("Mira", "Hi (Olek: he) there"), ("Olek", "Bye, Mira: x")],
        ),
    ],
)
def test_text_files(tmp_path: Path, text: str, expected: Turns) -> None:
    assert turns(tmp_path / "a.txt", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (srt("Mira: a", "Remember: b", "Olek: c"), [("Mira", "a"), ("Mira", "Remember: b"), ("Olek", "c")]),
        (
            srt("MIRA: a", "I have one question: who?", "OLEK: c"),
            [("MIRA", "a"), ("MIRA", "I have one question: who?"), ("OLEK", "c")],
        ),
        (srt("- MIRA: a\n- OLEK: b"), [("MIRA", "a"), ("OLEK", "b")]),
        (srt("MIRA: a -\n-- b", "OLEK: -5 degrees"), [("MIRA", "a - -- b"), ("OLEK", "-5 degrees")]),
        (srt("MIRA\nWhat?", "OLEK\nNo."), [("MIRA", "What?"), ("OLEK", "No.")]),
        (srt("[MIRA] What?", "[OLEK] No."), [("MIRA", "What?"), ("OLEK", "No.")]),
        (
            srt("MIRA (laughing): a", "[door slams]", "OLEK [off]: <i>b</i>", "MIRA: c"),
            [("MIRA", "a"), ("OLEK", "b"), ("MIRA", "c")],
        ),
        (srt("MIRA: a", "♪ la la ♪", "♪♪", "OLEK: ♪ b ♪"), [("MIRA", "a"), ("OLEK", "♪ b ♪")]),
        (srt("MIRA: a", "[OLEK] b", "OLEK: c"), [("MIRA", "a"), ("OLEK", "b"), ("OLEK", "c")]),
        ("\ufeff" + srt("MIRA: a", "OLEK: b").replace("\n", "\r\n"), [("MIRA", "a"), ("OLEK", "b")]),
        (srt("MIRA: how many?\n\n42\n", "OLEK: b"), [("MIRA", "how many? 42"), ("OLEK", "b")]),
        (
            "00:00:01,000 --> 00:00:02,000\nMira: a\n42\n00:00:02,000 --> 00:00:03,000\nOlek: b\n",
            [("Mira", "a 42"), ("Olek", "b")],
        ),
        (vtt("<v Mira>Hm: no\n<v Olek>Yes."), [("Mira", "Hm: no"), ("Olek", "Yes.")]),
        (vtt("<v.loud Tom &amp; Ann>both</v>"), [("Tom & Ann", "both")]),
        (vtt("<v Mira>OLEK: he said</v>"), [("Mira", "OLEK: he said")]),
        (vtt("<v Mira>- a\n- b</v>"), [("Mira", "a b")]),
        (
            vtt("<v Mira>a <00:01.500><c.x>b</c></v>", "<v Olek>5 &gt; 3 &#39;x&#39;"),
            [("Mira", "a b"), ("Olek", "5 > 3 'x'")],
        ),
        (vtt("MIRA: a >> OLEK: b"), [("MIRA", "a"), ("OLEK", "b")]),
        (vtt("&gt;&gt; MIRA: a", "&gt;&gt; OLEK: b"), [("MIRA", "a"), ("OLEK", "b")]),
    ],
)
def test_subtitles(tmp_path: Path, text: str, expected: Turns) -> None:
    suffix = "vtt" if text.startswith("WEBVTT") else "srt"
    assert turns(tmp_path / f"a.{suffix}", text) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.srt", srt("MIRA: a", "- b\n- c"), "line 7: '- b' does not say who speaks"),
        ("a.srt", srt("MIRA: a", "b\n- c"), "line 8: '- c' does not say who speaks"),
        ("a.srt", srt("MIRA: a", "Biscuits: b", "OLEK: c"), "line 7: 'Biscuits' may be a speaker or words"),
        ("a.srt", srt("Mira: a", "Olek: b", "Olek\nsit down", "Olek: c"), "line 11: 'Olek' may be a speaker or words"),
        (
            "a.srt",
            srt("MIRA: a\n42").replace("\n\n", "\n") + srt("OLEK: b")[2:],
            "line 4: '42' may be words or the number",
        ),
        ("a.srt", srt("MIRA: a", "OLEK: b", "MIRA - c"), "line 11: 'MIRA' may be a speaker or words"),
        ("a.srt", "Film\n" + srt("MIRA: a"), "line 1: 'Film' is above the first time"),
        ("a.vtt", vtt("MIRA: a", ">> b"), "line 7: '>> b' does not say who speaks"),
        ("a.vtt", vtt("<v Mira>a</v> b"), "line 4: 'b' is outside of the voice tags"),
        ("a.vtt", vtt("<v Mira a"), "line 4: '<v Mira a' is not a voice tag"),
        ("a.vtt", vtt("<v Mira>a", "two: b", "<v Olek>c"), "line 7: 'two' may be a speaker or words"),
        ("a.srt", srt("MIRA: Hi. OLEK: Hello.", "OLEK: So."), "line 3: 'OLEK:' begins to speak inside of a line"),
        ("a.srt", srt("Mira: Hi", "so OLEK : Hello.", "OLEK: c"), "line 7: 'OLEK :' begins to speak inside of a line"),
        ("a.txt", "Mira: Hi!\nReally? Olek: Hello.\nOlek: So.\n", "line 2: 'Olek:' begins to speak inside of a line"),
        ("a.json", '[{"user": "a", "text": "b", "ts": "x"}]', "a ts is not a number"),
        ("a.txt", f"Mira: a\n{S}Mira: b\n", "line 2: '12/03/2024, 10:15 - Mira: b' has a stamp"),
        ("a.txt", "Mira: a\nMilk: two\nMira: b\nOlek: c\nOlek: d\nand\n", "line 2: 'Milk' may be a speaker or words"),
        ("a.txt", "Mira:\t00:00:00\ta\nOlek: b\n", "line 2: 'Olek: b' has no time"),
        ("a.txt", "12:03 Mira: a\n18:05 is late: b\n12:04 Mira: c\n", "line 2:"),
        ("a.txt", f"Mira: a\n{S}Mira: b\n{S}Mira: c\n", "line 1: 'Mira: a' has no stamp"),
        ("a.txt", f"{S}Mira: a\n{S}Mira zmienia opis: b\n", "line 2: 'Mira zmienia opis' may be a contact or a note"),
        ("a.txt", f"{S}Mira joined\n", "line 1: no 'Name: text' after the stamp"),
        ("a.cha", "*CHI:\thi .\nwhat\n", "line 2: 'what' begins with none of"),
        ("a.json", "[1]", "message 1: not an object"),
        ("a.json", '{"a": 1}', "no list of messages"),
        ("a.json", '[{"text": "x"}]', "message 1: 'x' has no speaker"),
        ("a.json", '[{"from": "Mira", "text": 3}]', "message 1: text is '3'"),
        ("a.json", "{", "not JSON"),
    ],
)
def test_what_is_not_certain_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        turns(tmp_path / name, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_user_may_name_who_speaks(tmp_path: Path) -> None:
    text = srt("MIRA: a", "Biscuits: b", "OLEK: c")
    assert turns(tmp_path / "a.srt", text, ("MIRA", "OLEK")) == [("MIRA", "a"), ("MIRA", "Biscuits: b"), ("OLEK", "c")]
    assert turns(tmp_path / "a.srt", text, ("Mira", "Olek", "Biscuits"))[1] == ("Biscuits", "b")


def test_slack_names_come_from_the_users_beside_the_channel(tmp_path: Path) -> None:
    (tmp_path / "users.json").write_text('[{"id": "U2", "real_name": "Olek"}]')
    (tmp_path / "general").mkdir()
    text = (EXAMPLES / "slack.json").read_text()
    assert turns(tmp_path / "general" / "2024-03-12.json", text) == [("Mira", "hi @Olek & site"), ("Olek", "yo")]


def test_a_slack_user_has_one_name_and_the_newest_reply_may_come_first(tmp_path: Path) -> None:
    messages = [
        {"user": "U2", "type": "message", "subtype": "thread_broadcast", "ts": "30.5", "text": "not me"},
        {"user": "U9", "type": "message", "subtype": "tombstone", "ts": "20", "text": "This message was deleted."},
        {"user": "U2", "type": "message", "ts": "9.5", "text": "hi", "user_profile": {"display_name": "olek"}},
    ]
    assert turns(tmp_path / "a.json", json.dumps(messages)) == [("olek", "hi"), ("olek", "not me")]


def test_what_the_owner_of_a_signal_account_wrote_is_read(tmp_path: Path) -> None:
    mine = {"sourceName": "Mira", "syncMessage": {"sentMessage": {"message": "hi"}}}
    theirs = {"source": "+45", "dataMessage": {"message": "no"}}
    messages = [{"envelope": mine}, {"envelope": theirs}, {"envelope": {"source": "+45", "syncMessage": {}}}]
    assert turns(tmp_path / "a.json", json.dumps(messages)) == [("Mira", "hi"), ("+45", "no")]


def test_an_account_of_telegram_holds_several_conversations(tmp_path: Path) -> None:
    some = '{"name": "A", "messages": [{"from": "Mira", "text": "a"}]}, {"name": "A", "messages": []}'
    chats = f'{{"chats": {{"list": [{some}]}}}}'
    (tmp_path / "a.json").write_text(chats)
    assert [dialogue.id for dialogue in read_transcript(tmp_path / "a.json")] == ["1 A"]


def test_marks_of_chat_are_no_words(tmp_path: Path) -> None:
    text = "*A:\tto:::night he's &+fr friend wa:ter: ⁎no⁎ ∙hh °soft° ↗yes ʔ .\n*B:\t[- spa] hola amigo@s:spa .\n"
    expected = [("A", "tonight he's friend water no soft yes."), ("B", "hola amigo.")]
    assert turns(tmp_path / "a.cha", text) == expected


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    for seed, name, error in outcomes(tmp_path, files=400, seed=0):
        assert error is None or isinstance(error, UserError), (seed, name, error)
        assert "\n" not in str(error or ""), (seed, name)
