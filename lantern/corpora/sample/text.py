"""Words of the made-up dialogues. All of it was written for Lantern; no line comes from a corpus.

Both speakers of a scene are in the same situation, so either can say any of its lines. ``{o}`` is somebody else in the
scene, ``{n}`` a small number, ``{d}`` a day.
"""

from __future__ import annotations

_SCENES = """
= a delayed flight
> The board says another {n} hours now.
> They moved us to gate {n} again.
hap At least we have a window seat and good coffee.
hap Honestly, waiting here with you is not so bad.
sad We are going to miss the whole dinner, aren't we.
sad I promised her I would be there this time.
neu The desk opens at six, the sign says.
neu Both bags are checked through, I think.
ang They sold our seats, and they stand there smiling about it!
ang Don't you shush me, this airline lied to us!
exc They're boarding! Grab your things, we're really going!
exc Look, they put us in first class, first class!
fru I've asked at that desk {n} times and nobody knows a thing.
fru Every time I sit down they change the gate.
= a friend's wedding
> So the wedding is on {d}, and we are at table {n}.
> Nora sent the seating plan this morning.
hap She looked so happy when she told me about the garden.
hap It's nice that everyone will be in one room again.
sad I wish Dad could have seen her in that dress.
sad It just reminds me how alone I'll be at that table.
neu The ceremony is at two, the meal at five.
neu We can share a car from the station.
ang She invited him, after what he did to me?
ang You told her my secret in front of the whole party!
exc I get to be the witness, can you believe it!
exc They booked the band, the actual band, we'll dance all night!
fru I have changed this seating plan {n} times already.
fru Nobody answers the invitation, they just ignore it.
= a missing dog
> The gate was open when I came home, and Pepper was gone.
> Somebody on Mill Street saw a brown dog on {d}.
hap She is curled up on the sofa as if nothing had happened.
hap The neighbours were so kind, they all went looking.
sad Her bowl is still where she left it.
sad I keep hearing her at the door, and then it's nothing.
neu I put up posters as far as the school.
neu The shelter closes at five today.
ang You left that gate open, I told you a hundred times!
ang He saw her on the road and just drove on!
exc They found her! They found her, get your coat!
exc That's her bark, that's her, listen!
fru The shelter put me on hold for {n} hours.
fru We've walked this road all day for nothing.
= moving out
> The van comes at {n}, and half the kitchen is still out.
> So these are the last boxes.
hap We had some good dinners at this table, you and I.
hap The new place gets the sun in the morning, I like that.
sad It echoes now. It doesn't feel like home any more.
sad I don't know who I'll talk to in the evenings.
neu The keys go in the letterbox when we're done.
neu This box is books, that one is plates.
ang You sold my desk without even asking me!
ang That landlord is keeping our deposit, the crook!
exc We got the place with the roof, pack faster!
exc Our own garden, can you imagine, our own garden!
fru This is the third box that breaks in my hands.
fru I label everything and you put it somewhere else.
= the exam results
> The results go up on {d}, don't they.
> There is an envelope for each of us on the table.
hap I passed, and I slept well for once.
hap She wrote such a friendly comment under mine.
sad I studied all summer and it wasn't enough.
sad I don't know how to tell my mother.
neu You need {n} points for the next course.
neu They post the list outside room {n}.
ang He marked it without reading it, that's an insult!
ang You copied my answers and they blame me!
exc Top of the list! Top of the whole list!
exc We're in, both of us, we're actually in!
fru The page keeps crashing before it shows my name.
fru I asked for the answer key weeks ago, still nothing.
= the broken car
> It just stopped, right after the bridge.
> The garage says {n} more days.
hap Well, it's a pretty place to be stuck.
hap That old man who towed us was a real gentleman.
sad It was grandfather's car. There won't be another one.
sad We'll have to tell them not to wait for us.
neu The spare wheel is under the mat.
neu He wrote the part number on the back of the bill.
ang He charged us for a part he never put in!
ang You knew the light was on and you said nothing!
exc It started! Go, go, don't turn it off!
exc They're giving us the red one for the weekend, the fast one!
fru I've called the breakdown service {n} times now.
fru You fix one thing and the next one falls off.
= the queue at the office
> We are number ninety-{n}, and they're at thirty.
> The form for the permit, is that the blue one?
hap The lady at window {n} was really sweet about it.
hap Nice, we even got seats by the heater.
sad They refused it again. I don't think we can stay.
sad Twelve years here, and it comes down to a stamp.
neu You take a number and wait over there.
neu We need the copy and two photographs.
ang She threw my papers back at me, how dare she!
ang You people lost my file and you call me a liar!
exc It's stamped! Look at it, it's really stamped!
exc We can stay! Call everybody, we can stay!
fru They sent me to window {n}, and window {n} sent me back.
fru It was the right form last week, and now it isn't.
= the band
> The club wrote back about {d}.
> Rehearsal is at {n}, if the drummer comes.
hap That slow song sounded lovely yesterday.
hap I missed this, the four of us in one room.
sad I think that was the last time we play together.
sad Nobody came. We played to empty chairs.
neu We have a set of {n} songs, forty minutes.
neu The amplifier is in the back of the van.
ang You gave my solo to him behind my back!
ang He walks out in the middle of a show, and I apologise?
exc They want us for the festival, the main stage!
exc Listen, that's us, we're on the radio!
fru We start this song {n} times and never get past the bridge.
fru He is late again, of course he is late again.
= the flooded kitchen
> The water came through at about {n} this morning.
> The landlord says he'll send someone on {d}.
hap The neighbours brought soup, wasn't that kind?
hap It's almost cosy, eating on the floor by candles.
sad All the photographs were in that drawer.
sad Her letters are just pulp now. That was all I had left.
neu The main tap is behind the washing machine.
neu The insurance wants a list by {d}.
ang He calls it my fault, the man who never fixed that pipe!
ang Get out of my kitchen before you break something else!
exc They're paying for all of it, a whole new kitchen!
exc It's holding! The pipe is holding, you did it!
fru I mop and it comes back, I mop and it comes back.
fru That is the fourth plumber who didn't show up.
= the lay-offs
> They called everyone on floor {n} into a meeting.
> The list comes out on {d}, apparently.
hap My team wrote me a card, every one of them.
hap I'm rather relieved. I can see my kids in the daytime.
sad Nineteen years, and I carry it out in one box.
sad Yours was the only desk I liked walking past.
neu Notice is {n} weeks, according to the contract.
neu You hand in the badge at the front desk.
ang He got a bonus! He fired forty people and got a bonus!
ang Don't you dare tell me it isn't personal!
exc I got the offer! Twice the pay, and I start on {d}!
exc We'll start our own, you and me, this is our chance!
fru They rewrote the plan {n} times and nobody tells us.
fru I send them my numbers and they ask for my numbers.
"""

_GENERIC = """
hap That makes me smile, you know.
hap Thank you. That was sweet of you to say.
hap I'm glad it was you, {o}.
hap It worked out nicely in the end.
hap I could get used to this.
hap You always know how to cheer me up.
sad I just feel empty about it.
sad I don't think I can do this again.
sad I cried half the night, if you want to know.
sad Maybe it was never going to work.
sad I miss how it used to be.
sad I'm sorry, {o}. I let you down.
neu I can write it down for you.
neu It takes about twenty minutes from here.
neu The second one, I believe.
neu {o} has the list, as far as I know.
neu We can talk about the rest on {d}.
neu That is how they do it there.
ang How dare you say that to me!
ang You lied to my face, {o}!
ang I'm done being polite about this!
ang Get your hands off that, it's mine!
ang Don't you ever talk to me like that again!
ang You had no right, no right at all!
exc I can't believe it, this is amazing!
exc Oh my goodness, {o}, tell me everything!
exc I've been waiting for this all year!
exc We have to celebrate, right now!
exc I'm shaking, look at my hands!
exc This is the best news ever!
fru I've explained this so many times.
fru Why does it never just work?
fru It's always the same, nobody listens.
fru I give up, honestly, what do they want?
fru How hard can it be, {o}?
fru I can't get a straight answer from anyone.
"""

AMBIGUOUS = tuple(
    """
I know.
What do you mean?
Say that again.
So what happens now?
You were there, {o}.
Okay. Okay.
I didn't expect that.
Did you hear what {o} said?
It's not what I thought it would be.
Wait, let me see that.
And then what?
You really think so?
That's what they told me.
I can't talk about this right now.
Look at me, {o}.
It's been a long day.
Well, there it is.
You don't have to do that.
I was going to say the same thing.
After all this time.
Just tell me.
Yeah, I remember.
Is that all of it?
Nothing changes, does it.
Come here for a second.
I heard you the first time.
Who else knows?
That's {n} times now.
Let me think.
[LAUGHTER]
[BREATHING] Right.
Oh, come on.
""".strip().splitlines()
)
"""Lines that fit any emotion."""

OPENERS: dict[str, tuple[str, ...]] = {
    "happy": ("Aw.", "Oh, good.", "Mm, yes."),
    "sad": ("Oh.", "I don't know.", "Well..."),
    "neutral": ("Right.", "Yes.", "Um,"),
    "angry": ("No!", "Excuse me?", "Oh, really?"),
    "excited": ("Yes!", "Oh wow.", "Guess what!"),
    "frustrated": ("Ugh.", "Again.", "Oh, for heaven's sake."),
}
DAYS = ("Monday", "Tuesday", "Thursday", "Friday", "Saturday", "Sunday")
_SHORT = {
    "hap": "happy",
    "sad": "sad",
    "neu": "neutral",
    "ang": "angry",
    "exc": "excited",
    "fru": "frustrated",
    ">": "opening",
}


def _grouped(block: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for line in block.strip().splitlines():
        kind, text = line.split(" ", 1)
        found.setdefault(_SHORT[kind], []).append(text)
    return {kind: tuple(lines) for kind, lines in found.items()}


SCENES = {
    name: _grouped(lines) for name, lines in (part.strip().split("\n", 1) for part in _SCENES.strip().split("= ")[1:])
}
"""Per scene its lines by class, and under ``opening`` those that start it."""

GENERIC = _grouped(_GENERIC)
"""Lines by class that fit every scene."""
