"""Words in several languages by which names, messages and placeholders are told apart."""

from __future__ import annotations

import re


def _lines(text: str) -> frozenset[str]:
    return frozenset(line.strip().casefold() for line in text.splitlines() if line.strip())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTICLES = _words(
    "af al and av bin d' da de del della den der di do dos du e el et i la le of ten ter und van von y zu"
)
"""Small words inside of names."""
FUNCTION_WORDS = _words("""
i you he she it we they me him us them this that these those there here one two three my your his her its our their
a an the some any no not nothing everything all and but so or nor if then than what which who whom whose why how when
where because on in at for to from by with as is are was were am be been do does did have has had will would can could
should must may might said says say told tell mean means think know
ich du er sie es wir ihr das der die den dem ein eine und aber oder wenn weil ist sind war hat habe nicht mit für wer
je tu il elle nous vous ils ce cette ça les un une et mais ou où si est sont était ai pas sur avec pour que qui quoi
yo él ella nosotros esto eso hay lo los las una pero o es son era ha en con para por qué quién
io lui lei noi questo ma è sono ho non che chi ik jij hij zij wij het een maar niet wat
minä sinä hän te se tämä ja mutta ei
""")
ALONE = _words("""
i you he she it we they this that these those there here what who why how when where because if and but so or one
everybody nobody someone und aber oder denn also mais et donc car pero y porque ma perché en maar dus ja mutta
""")
"""Function words that are nobody's name, as Will and May may be."""
PREPOSITIONS = _words("from of at in on the with and von vom aus der die de del da du des di van aan på av från og")
CHANGES = _words("""
changed changes added removed left joined created renamed pinned updated turned started made deleted set invited is was
has hat ist änderte a est cambió añadió eliminó creó salió mudou adicionou criou ha heeft on muutti lisäsi
изменил изменила
""")
"""What a chat program says that somebody did."""
OPENERS = _words("""
note notes nb ps pps p.s warning caution attention danger important reminder remember listen look see wait imagine think
guess try please sorry thanks thank hello hi hey dear well yes no yeah yep nope oh ah ok okay right also plus anyway
however meanwhile otherwise again first second third firstly secondly finally lastly next last then now today tonight
tomorrow yesterday monday tuesday wednesday thursday friday saturday sunday breaking update news fact facts truth
problem problems solution result reason reasons conclusion summary idea plan rule rules point tip hint example edit
correction translation meaning verdict joke riddle quote recipe ingredients address phone email tel mobile time date
place price total subject re fwd cc todo question answer spoiler basically honestly seriously remark source sources
link options choices achtung hinweis frage antwort beispiel übrigens erstens zweitens remarque réponse exemple nota
pregunta respuesta ejemplo domanda risposta esempio huom kysymys
""")
"""Words that open a sentence before a colon."""
ATTACHED = _lines("""
    file attached
    attached file
    Datei angehängt
    fichier joint
    archivo adjunto
    arquivo anexado
    ficheiro anexado
    file allegato
    bestand bijgevoegd
    tiedosto liitetty
    liitetiedosto
    файл добавлен
    dosya ekli
    plik załączony
    załączono plik
    fil bifogad
    bifogad fil
    fil vedhæftet
    vedhæftet fil
    fil vedlagt
    soubor přiložen
    文件附件
    附件
    파일 첨부됨
    ملف مرفق
    الملف مرفق
""")
"""What follows the name of a file, in parentheses."""
NO_MESSAGE = _lines("""
    null
    This message was deleted
    You deleted this message
    You deleted this message as admin
    Diese Nachricht wurde gelöscht
    Du hast diese Nachricht gelöscht
    Ce message a été supprimé
    Vous avez supprimé ce message
    Se eliminó este mensaje
    Este mensaje fue eliminado
    Eliminaste este mensaje
    Mensagem apagada
    Essa mensagem foi apagada
    Esta mensagem foi apagada
    Você apagou essa mensagem
    Você apagou esta mensagem
    Apagou esta mensagem
    Questo messaggio è stato eliminato
    Hai eliminato questo messaggio
    Dit bericht is verwijderd
    Dit bericht werd verwijderd
    Je hebt dit bericht verwijderd
    U hebt dit bericht verwijderd
    Tämä viesti poistettiin
    Tämä viesti on poistettu
    Poistit tämän viestin
    Данное сообщение удалено
    Это сообщение удалено
    Вы удалили данное сообщение
    Bu mesaj silindi
    Bu mesajı sildiniz
    Ta wiadomość została usunięta
    Usunięto tę wiadomość
    Detta meddelande togs bort
    Detta meddelande raderades
    Detta meddelande har tagits bort
    Du tog bort detta meddelande
    Denne besked blev slettet
    Denne meddelelse blev slettet
    Denne meldingen ble slettet
    Tato zpráva byla odstraněna
    此消息已删除
    此訊息已刪除
    你删除了此消息
    このメッセージは削除されました
    삭제된 메시지입니다
    تم حذف هذه الرسالة
    حذفت هذه الرسالة
    Missed voice call
    Missed video call
    Missed group voice call
    Missed group video call
    Verpasster Sprachanruf
    Verpasster Videoanruf
    Appel vocal manqué
    Appel vidéo manqué
    Llamada perdida
    Llamada de voz perdida
    Chamada de voz perdida
    Chiamata vocale persa
    Live location shared
    Waiting for this message
    Waiting for this message. This may take a while
    Warte auf diese Nachricht. Dies kann eine Weile dauern
""")
"""What stands in place of a message, without the last point."""
_KIND = (
    "image|photo|video|audio|sticker|gif|document|contact card|bild|foto|dokument|kontaktkarte|imagen|imagem|vidéo|"
    "vídeo|áudio|immagine|afbeelding|documento|kuva|ääni|asiakirja|media|multimedia|medien|médias"
)
_LEFT_OUT = (
    "omitted|weggelassen|ausgeschlossen|absente?|omise?s?|omitid[oa]|ocultad[oa]|omess[oai]|weggelaten|jätetty pois"
)
OMITTED = re.compile(rf"(?:[^\s.]+\.\w{{2,5}} • .{{1,30}})?(?:{_KIND})s? (?:{_LEFT_OUT})", re.IGNORECASE)
EDITED = re.compile(
    "edit|bearbeit|modifi|édit|muoka|bewerk|edytow|измен|düzenlen|redig|upraven|编辑|編輯|編集|수정|تعديل|تحرير",
    re.IGNORECASE,
)
