"""What shops, agencies and sites write round a description, and its removal.

    text = "Buy red ball online | Free shipping"
    without(text, of_text(text))            # "red ball"

A text is cut where punctuation divides it; a piece that is nothing but such phrases goes, and the first and last pieces
lose those that lead or trail. Words that a true caption may use ("for sale", "online") go only where the text is no
sentence, or where more of a shop stands beside them. A text in which no word is a cue is not looked at, so that clean
ones cost little.
"""

import re
from collections.abc import Sequence
from itertools import pairwise, product

from mobileclip.captions.text import words

_AGENCIES = (
    r"shutterstock|getty\s?images?|i\s?stock\s?(?:photo)?|alamy|dreamstime|depositphotos?|adobe\s?stock|fotolia|"
    r"123rf|big\s?stock(?:\s?photo)?|pond5|can\s?stock(?:\s?photo)?|freepik|vecteezy|pngtree|canva|pixabay|unsplash|"
    r"pexels|flickr|pinterest|etsy|ebay|aliexpress|alibaba|redbubble|zazzle|teepublic|society6|cafepress|poshmark|"
    r"deviantart|tumblr|instagram|facebook|twitter|youtube|wikipedia|wikimedia(?:\scommons)?|imdb|walmart|wayfair|houzz|"
    r"overstock|tripadvisor|airbnb|gumtree|craigslist|all\s?posters|corbis|rex\sfeatures|superstock|"
    r"age\s?fotostock|mostphotos|picfair|eyeem|500px|stocksy|masterfile|wallpaper\s?(?:access|cave|flare|safari)"
)
_SITES = r"amazon|target|reuters|ap|afp|epa|bbc|cnn|vimeo|reddit|linkedin|tiktok|google|bing|yelp|booking"
_NUMBER = r"(?:\s*(?:#|no\.?|nr\.?|number|id|code|ref\.?)?\s?:?\s?[a-z]{0,4}-?\d[\w-]*)"
_PICTURE = (
    r"(?:photo(?:graph)?s?|photography|pictures?|pics?|images?|illustrations?|vectors?|graphics?|footage|videos?|clips?|"
    r"clip\s?arts?|arts?|artworks?|icons?)"
)
_RIGHTS = r"(?:stock|royalty[\s-]free|rights[\s-]managed|copyright[\s-]free|creative\scommons|public\sdomain)"
_STOCK = (
    rf"(?:(?:premium|free|high[\s-]quality|{_RIGHTS})\s+)*{_RIGHTS}"
    rf"(?:\s+(?:(?:&|and)\s+)?(?:editorial|vector|digital|{_PICTURE}))+"
)
_SIZES = r"(?:hd|uhd|4k|8k|hq|1080p|\d{3,4}\s?[x×]\s?\d{3,4}|high[\s-](?:quality|resolution|definition|res)|widescreen)"
_DEVICES = r"(?:desktop|mobile|iphone|android|pc)"
_PAPERS = r"(?:wallpapers?|backgrounds?)"
_PAPER = (
    rf"(?:(?:free|{_SIZES}|{_DEVICES})\s+)+{_PAPERS}(?:\s+(?:{_SIZES}|free|downloads?|for\s+{_DEVICES}))*"
    rf"|{_PAPERS}(?:\s+(?:{_SIZES}|free|downloads?|for\s+{_DEVICES}))+"
)
_CLICK = (
    r"(?:click|hover|roll\s?over|mouse\s?over)(?:(?:\s+(?:here|now|below|above|on|over|the|this|image|photo|picture|pic|"
    r"thumbnail|link|button))+(?:\s+(?:to|for)\b.*)?|\s+(?:to|for)\b.*)"
)
_MORE = (
    r"(?:view|see|show|read|learn|find\s+out|discover|load)\s+(?:more|details?|full\s?size|larger|gallery|product)"
    r"(?:\s+(?:here|now|details?|info(?:rmation)?|images?|photos?|pictures?|about\b.*|on\b.*|from\b.*|at\b.*))?"
    r"|(?:larger|full\s?size|enlarged|bigger)\s+(?:image|photo|picture|view|version)|more\s+(?:info(?:rmation)?|details)"
)
_PRICE = (
    r"(?:(?:the\s+)?(?:best|low|lowest|great|cheap|cheapest|wholesale|discount(?:ed)?|special|affordable|factory)\s+"
    r"(?:online\s+)?(?:prices?|offers?|deals?|rates?)(?:\s+(?:guaranteed?|online|ever|now|today|on\b.*|in\b.*))*"
    r"|price\s+guaranteed?|\d+\s?%\s+off(?:\s.*)?|save\s+(?:up\s+to\s+)?\d+\s?%(?:\s.*)?|money[\s-]back\s+guarantee)"
)
_SHOP = (
    r"free\s+(?:\w+\s+){0,2}(?:shipping|delivery|returns?|postage|samples?|p&p)(?:\s.*)?|(?:fast|express|next[\s-]day|"
    r"same[\s-]day|worldwide|international)\s+(?:shipping|delivery)(?:\s.*)?|ships?\s+(?:free|worldwide|today|fast)(?:\s.*)?|"
    r"(?:buy|shop|order|sold|available|purchase|rent)\s+(?:it\s+)?(?:now|online|here|today|direct)"
    r"(?:\s+(?:at|from|on|for|in|with)\b.*)?|online\s+(?:shop|store|shopping|sales?)|"
    r"add\s+to\s+(?:cart|basket|bag|wish\s?list|favou?rites)|(?:in|out\s+of|back\s+in|limited)\s+stock|sold\s+out|"
    r"pre[\s-]?orders?|new\s+arrivals?|best\s?sellers?|(?:hot|clearance|summer|winter|flash|big)\s+sale|"
    r"on\s+sale(?:\s+now)?|for\s+sale(?:\s+(?:online|now|cheap|by\s.*|in\s.*))?|gift\s+ideas?|"
    r"(?:item|sku|lot|listing|mpn|upc|ean|isbn|asin)\s*(?:no\.?|number|code|id|#)?\s*:?\s*#?\s?[a-z]{0,4}-?\d[\w./-]*|"
    r"(?:product|model|part|style|stock|article)\s+(?:no\.?|number|code|id|#)\s*:?\s*#?\s?[a-z]{0,4}-?\d[\w./-]*|"
    r"(?:rrp|msrp|price|only|now|was|from|just)?\s*:?\s*[$€£¥]\s?\d[\d.,]*(?:\s+(?:each|usd|only|off|incl?\b.*|vat))*"
)
_CLAIM = (
    r"all\s+rights\s+reserved|(?:©|\(c\)|copyright\b)(?:\s?.*)?|no\s+(?:unauthori[sz]ed\s+)?(?:use|reproduction)(?:\s.*)?|"
    r"used\s+(?:by|with)\s+permission(?:\s.*)?|(?:photo|image|picture)s?\s*(?:credits?|courtesy|source|copyright)\b.*|"
    r"courtesy\s+of\s.*|licen[sc]ed\s+under\s.*|cc[\s-]by(?:[\s-].*)?"
)
_SITE = (
    r"(?:posted|uploaded|submitted)\s+(?:by|on|in|at)\s.*|(?:share|pin|save|tweet|follow)\s+(?:this|it|us|me)\b"
    r"(?:\s+(?:on|to|via|at)\s.*)?|like\s+us\b.*|subscribe(?:\s.*)?|leave\s+a\s+comment|"
    r"(?:image|photo|picture|slide|page|item|figure|fig|thumbnail|gallery\s+image)\s*#?\d+\s*(?:of|/)\s*\d+|"
    r"\d[\d,.]*k?\s+(?:views?|likes?|comments?|reviews?|bids?|shares?|followers|downloads?|pins?|votes?)|"
    r"(?:free|instant|digital|pdf|hd|4k)\s+downloads?(?:\s+(?:hd|4k|now|free|pdf))*|downloads?\s+(?:free|now|here|hd|4k|it|"
    r"this)(?:\s.*)?|(?:official|home)\s+(?:site|website|page)|watch\s+(?:online|now|free|full)(?:\s.*)?"
)
_PHRASE = re.compile(
    "(?:"
    + "|".join(
        (
            rf"(?:(?:photo|image|picture|video)s?\s+)?(?:(?:(?:buy|sold|available)\s+)?(?:by|from|via|on|at|in)\s+)?"
            rf"(?:{_AGENCIES})(?:\s+(?:com|images?|photos?|contributor|news|entertainment|editorial|uk|us))*{_NUMBER}?",
            _STOCK + rf"{_NUMBER}?",
            rf"(?:premium|free)\s+(?:psd|{_PICTURE})",
            _PAPER,
            _CLICK,
            _MORE,
            _PRICE,
            _SHOP,
            _CLAIM,
            _SITE,
        )
    )
    + r")(?!\w)",
    re.I | re.A,
)
_BETWEEN = re.compile(r"[\s!*+&]*(?:(?:and|or|with)\b\s*)?", re.I | re.A)
_SITE_NAME = re.compile(rf"(?:(?:from|on|at|via|by)\s+)?(?:{_SITES})", re.I)
_BEHIND = re.compile(
    rf"\s+(?:{_STOCK}{_NUMBER}?|{_PAPER}|(?:(?:photo|image|picture)s?\s+)?(?:on|from|via|at|by)\s+(?:{_AGENCIES})|"
    rf"(?:{_AGENCIES})|(?:buy|order|shop)\s+(?:now|online)|free\s+downloads?|(?P<weak>online|for\s+sale(?:\s+online)?))"
    r"[\s!.*]*$",
    re.I | re.A,
)
_BEFORE = re.compile(
    rf"(?:(?P<weak>(?:buy|shop|order|purchase)\s+(?:now\s+|online\s+)?)|(?:{_STOCK}|{_PAPER})\s+(?:of\s+|-\s*|:\s*)?|"
    rf"(?:{_AGENCIES}){_NUMBER}?\s*[:|-]\s*|(?:new|hot|clearance|sale)\s*!+\s*)(?=\w)",
    re.I | re.A,
)
_CREDIT = re.compile(
    r"\s*(?:[.,;|(\[–—-]\s*)(?:(?:photo|image|picture|photograph|video|illustration)s?\s*(?:credits?|courtesy|source|"
    r"copyright)?|credits?|source|courtesy)\s*(?:of|by|via|:|©)+\s*(?-i:[A-Z©])[^|.]{0,100}[.)\]]*$",
    re.I | re.A,
)
_SENTENCE = frozenset(("a", "an", "the", "is", "are", "his", "her", "their", "its", "this", "that", "was", "were"))
_CREDITS = frozenset(("by", "via", "credit", "credits", "courtesy", "source", "copyright"))
_REACH = 8  # words from either end in which a phrase that leads or trails has its cue
_RULES = frozenset("|-–—·•»")
_CUTS = re.compile(
    r"([|•·»«~→…]|::|--+|\.{2,}|(?<=\s)[-–—/*]+(?=\s)|[,;:](?=\s)"
    r"|(?<!\b\w)(?<!\b(?:no|nr|dr|mr|ms|st|vs))[.!?]+(?=\s))",  # not behind an initial or an abbreviation
    re.I,
)
_BRACKETS = re.compile(r"\s*[(\[{]\s*([^()\[\]{}]{1,200})[)\]}]")
_LEADS, _TRAILS = " |,;:~*/\\=»«•·→>.!?)]}–—", " |,;:~*/\\=»«•·→<([{–—"
_GENERAL = (
    "a admin all alt album an and attachment available avatar banner blank by caption click coming cover current "
    "default description display enlarge error featured figure file for found full gallery graphic graphics header "
    "here homepage icon illustration image images img in is large link load loading logo main media missing name no "
    "none not null of on page photo photograph photographs photography photos pic pics picture pictures placeholder "
    "post posted preview product profile screenshot see size slide slideshow small soon spacer text the this thumb "
    "thumbnail thumbnails title to undefined unknown unnamed untitled user video view wait please your"
)
GENERAL = frozenset(_GENERAL.split())
"""Words that say of a picture no more than that it is one."""

_CUES = (
    "123rf 500px agefotostock airbnb alamy alibaba aliexpress allposters asin bestseller bestsellers bigstock "
    "bigstockphoto buy cafepress canstock canstockphoto canva clearance click copyright corbis courtesy craigslist "
    "credit credits deal deals delivery depositphoto depositphotos deviantart download downloads dreamstime ean ebay "
    "etsy eyeem facebook flickr fotolia fotostock free freepik getty gettyimage gettyimages guarantee guaranteed "
    "gumtree houzz hover imdb instagram isbn istock istockphoto licenced licensed masterfile mostphotos mouseover "
    "mpn offer offers online order orders overstock permission pexels picfair pinterest pixabay pngtree pond5 "
    "poshmark postage posters preorder preorders premium price prices purchase redbubble rex rights rollover royalty "
    "sale seller sellers shipping shop shutterstock sku society6 stock stocksy subscribe superstock teepublic "
    "tripadvisor tumblr twitter unsplash upc vecteezy walmart wallpaper wallpaperaccess wallpapercave wallpaperflare "
    "wallpapers wallpapersafari wayfair wikimedia wikipedia youtube zazzle"
)
_PAIRS = (  # words, words behind them, and which of the two is the rarer
    ("photo photos image images picture pictures photograph photography video illustration", "by via source", 1),
    ("posted uploaded submitted", "by on in at", 0),
    ("like follow share pin save tweet", "us me this it", 0),
    ("more", "info information details", 1),
    ("view see show read learn out discover load", "more detail details full fullsize larger gallery product", 1),
    ("larger size fullsize enlarged bigger", "image photo picture view version", 0),
    ("add", "to", 0),
    ("ship ships", "free worldwide today fast", 1),
    ("sold available rent", "out now online here today direct", 0),
    ("product model part style article", "no nr number code id", 0),
    ("official home", "site website page", 1),
    ("watch", "online now free full", 0),
    ("gift new best", "idea ideas arrival arrivals seller sellers", 1),
    ("creative public", "commons domain", 1),
    (
        "hd 4k 8k uhd hq free desktop mobile iphone android pc widescreen quality resolution",
        "background backgrounds",
        0,
    ),
    ("background backgrounds", "hd 4k 8k uhd hq for", 0),
    ("a", "comment", 1),
    ("no unauthorized unauthorised", "use reproduction", 1),
    ("roll mouse", "over", 0),
    ("cc", "by", 0),
    ("all", "posters", 1),
)
_CUE = frozenset(_CUES.split())
_PAIR = frozenset(pair for one, other, _ in _PAIRS for pair in product(one.split(), other.split()))
_RARER = frozenset(word for *sides, rarer in _PAIRS for word in str(sides[rarer]).split())
_COUNTED = r"(?:views?|likes?|comments?|reviews?|bids?|shares?|followers|downloads?|pins?|votes?)"
SIGNS = (
    r"[$€£¥©]|\(c\)|[0-9] ?(?:of|/) ?[0-9]|(?:photo|image|picture|photograph|video|illustration|credit|source)s?"
    r" ?(?:credits?|courtesy|source|copyright)? ?:|(?:new|hot|sale) ?!|[0-9]k? "
    rf"{_COUNTED}|% off|save (?:up to )?[0-9]|(?:item|lot|listing)[^0-9]{{0,12}}[0-9]|"
    rf"[|·•»–—-] ?(?:(?:from|on|at|via|by) )?(?:{_SITES})(?:[^a-z]|$)"
)
"""Pattern, of Python and RE2 alike and in any case, of what else may be a phrase."""
EDGES = r"^[ |,;:~*/\\=»«•·→>.!?)\]}–—]|^-(?: |$)|[ |,;:~*/\\=»«•·→<(\[{–—]$| [-&]$"
"""RE2 pattern of every text that `trimmed` changes."""
_SIGNS = re.compile(SIGNS, re.I | re.A)
_SIGN_CHARS = re.compile("[$€£¥©(:!0-9|·•»–—]|- ")  # of which each sign has one


def has_cue(found: Sequence[str]) -> bool:
    """Whether one of the words, or two in a row, may be of a phrase."""
    if not _CUE.isdisjoint(found):
        return True
    return not _RARER.isdisjoint(found) and not _PAIR.isdisjoint(pairwise(found))


def has_sign(text: str) -> bool:
    """Whether a text has one of `SIGNS`."""
    return _SIGN_CHARS.search(text) is not None and _SIGNS.search(text) is not None


def without(text: str, found: Sequence[str], sign: bool | None = None) -> str:
    """A text, whose words are `found`, without such phrases; the same text where there are none.

    `sign` says whether it has one of `SIGNS`, where that is known; a text without one and without a cue among its words
    is not looked at.
    """
    sign = has_sign(text) if sign is None else sign
    if not sign and not has_cue(found):
        return text
    left = text
    if "(" in text or "[" in text or "{" in text:
        left = _BRACKETS.sub(lambda match: "" if _is_phrases(match[1]) else match[0], left)
    if sign or not _CREDITS.isdisjoint(found):
        left = _CREDIT.sub("", left)
    left = _without_pieces(left, sign)
    if sign or has_cue(found[:_REACH]):
        before = _BEFORE.match(left)
        if before is not None and (before["weak"] is None or _SENTENCE.isdisjoint(found)):
            left = left[before.end() :]
    while sign or has_cue(words.of_text(left)[-_REACH:]):
        behind = _BEHIND.search(left)
        if behind is None:
            break
        alone = behind["weak"] is not None and left == text  # and there is no other sign of a shop
        if alone and (behind["weak"] == "online" or not _SENTENCE.isdisjoint(found)):
            break
        left = left[: behind.start()]
    return trimmed(left) if left != text else text


def trimmed(text: str) -> str:
    """Without punctuation that leads to or follows nothing."""
    while True:
        found = text.lstrip(_LEADS).rstrip(_TRAILS)
        found = found[1:] if found[:2] in ("- ", "-") else found
        found = found[:-1] if found[-2:] in (" -", " &") else found
        if found == text:
            return text
        text = found


def is_general(found: Sequence[str]) -> bool:
    """Whether words (see `words`) describe nothing: general ones and numbers alone."""
    return all(word in GENERAL or word.isdigit() for word in found)


def _without_pieces(text: str, sign: bool) -> str:
    """Without the pieces, and the cuts before them, that are nothing but phrases."""
    pieces = _CUTS.split(text)  # piece, cut, piece, ...
    if len(pieces) == 1:
        return "" if _is_phrases(text) else text
    kept = ""
    for place in range(0, len(pieces), 2):
        cut, piece = pieces[place - 1] if place else "", pieces[place]
        if sign or has_cue(words.of_text(piece)):
            if _is_phrases(piece) or (cut and cut in _RULES and _SITE_NAME.fullmatch(piece.strip())):
                kept += cut if kept and cut in ".!?" else ""
                continue
            behind = _BEHIND.search(piece)
            if behind is not None and behind["weak"] is None:
                piece = piece[: behind.start()]
        kept += cut + piece if kept else piece
    return kept


def _is_phrases(piece: str) -> bool:
    """Whether a piece is one phrase after the other; each is taken as it first matches, so time is bounded."""
    piece = piece.strip(" .!*")
    place = 0
    while place < len(piece):
        found = _PHRASE.match(piece, place)
        between = _BETWEEN.match(piece, found.end()) if found is not None else None
        if found is None or between is None or found.end() == place:
            return False
        place = between.end()
    return place > 0
