"""Does a question need what was said before it? (pure)

"And how do I undo that?" finds nothing by its own words. Whether a question is of that kind is decided by its form
alone: pronouns, demonstratives, connectives and ellipsis, in the languages that have a table below. A question that is
taken for complete although it is not is searched as it stands; one that is taken for incomplete although it is complete
costs a rewriting. The rules lean towards leaving a question alone.

Of 1,085 questions and claims of scifact and chunkeval_spans, which stand alone, 5 are taken for incomplete; of 1,002
questions of cmrc2018 (Chinese, asked about one paragraph in view) 35, of which most do say "this" or "it".
"""

import re
import unicodedata
from collections.abc import Sequence

import regex

from ragsvc.evidence import content
from ragsvc.types import Turn

# English ------------------------------------------------------------------------------------------------------------

_AUXILIARY = (
    r"(?:do|does|did|is|are|was|were|am|can|could|will|would|shall|should|may|might|must|has|have|had|isn't|aren't|"
    r"doesn't|don't|didn't|can't|won't|what's|how's|why's|who's|where's|when's)"
)
_LEADING = re.compile(
    r"^(?:ok(?:ay)?|well|thanks|thank you|great|so|hm+)?[\s,.!]*"
    r"(?:and|but|or|also|then|what about|how about|what else|anything else|why not|how so|how come|and if|"
    r"tell me more|say more|go on|more about (?:it|that|this))\b"
)
_TRAILING = re.compile(
    r"(?<!\b(?:are|was) )(?<!\bis )\b(?:too|as well|either|instead|then|otherwise|though|there|else|"
    r"respectively|the same|of (?:the )?(?:two|three|"
    r"both))[\s?.!]*$"
)
_THIS = re.compile(
    r"\b(?:this|these)\b(?!\s+(?:project|documentation|docs?|documents?|service|software|tool|release|version|library|"
    r"package|folder|site|product|program|repository|repo|machine|computer|morning|week|month|year|time)\b)"
)
_THOSE = re.compile(r"\bthose\b(?!\s+(?:who|that|which|of)\b)")
_THAT = re.compile(
    rf"\bthat\s*(?:[?.!,;]|$)|\b{_AUXILIARY}\s+that\b|\b(?:of|for|with|after|before|about|like|from|in|on|to|by|than|"
    r"without|at|under|into|via|per)\s+that\b(?!\s+(?:is|are|was|were|has|have|can|will|do|does)\b)|"
    r"\b(?:i|you|we|they|to|one)\s+(?!(?:think|know|mean|say|said|see|ensure|check|verify|assume|guarantee|prove|"
    r"show|tell|hope|believe|sure)\b)\w+\s+that\s+\w+"
)
_ONE = re.compile(
    r"\b(?:the|that|this|which|another|other|first|second|third|last|next|latter|former|better|best|faster|new|old)\s+"
    r"ones?\b(?!-|\s+of\s+the\s+\w)|\b(?:create|make|add|use|get|set|need|remove|delete|write|choose|pick|have)\s+one\b"
    r"(?=\s*(?:[?.!,]|$|(?:with|without|for|in|on|at|from|by|to|via|and|or|if|when)\b))"
    r"|\b(?:more|less) than one\b\s*[?.!]"
)
_BACK = re.compile(
    r"\b(?:the (?:former|latter|others|other\s*[?.!]|rest|above|previous|"
    r"same (?:way|thing|for|with|apply|applies|hold|holds|true))|"
    r"aforementioned|as above|as before|such an? (?:case|one|thing)|in that case|(?:from|in|over|up|out) there)\b"
)
_WHICH = re.compile(rf"^which\s+(?:ones?\b|(?:of\s+(?:them|these|those|the\s+two)|{_AUXILIARY})\b)")
_SUBJECT = re.compile(rf"\b{_AUXILIARY}\s+(?:it|they|he|she)\b|\b(?:it|they|he|she)(?:'s|'re|'ll)\b")
_EXPLETIVE = re.compile(
    r"\b(?:is|was|would|will|isn't|wasn't)\s+it\s+(?:be\s+|still\s+|also\s+|really\s+|generally\s+|always\s+)*"
    r"(?:\w+\s+){1,2}(?:to|that|if|for\s+\w+(?:\s+\w+)?\s+to)\b"
    r"|\bdoes\s+it\s+(?:take|cost|mean|matter|make sense|help|hurt)\s+(?:\w+\s+){0,2}"
    r"(?:to|that|if|when|whether|which)\b"
    r"|\bit\s+(?:takes?\s+to|(?:is|was)\s+(?:not\s+)?\w+\s+(?:to|that))\b|\bit['’]?s?\s+(?:is\s+)?(?:possible|necessary|allowed|safe|better)\b"
)
_OBJECT = re.compile(r"\b(?:it|them|him|her(?!\s+\w)|itself|themselves)\b")
_POSSESSIVE = re.compile(r"\b(?:its|their|his|hers?|theirs)\b")
_CLAUSE = re.compile(
    r"[,;:–—]|\b(?:and|or|but|when|if|before|after|once|while|because|until|unless|without|by|so|since|though|although|"
    r"then|which|who|whose|that|to(?!\s*$))\b"
)
_ASKER = re.compile(rf"\b{_AUXILIARY}\s+(?:i|you|we|one)\b")
_SPOKEN_OF = re.compile(rf"\b{_AUXILIARY}\s+(?!(?:i|you|we|one|it|they|there)\b)\w+")
_OPENS = re.compile(
    rf"^(?:{_AUXILIARY}|what|which|who|whom|whose|where|when|how|why|list|show|explain|describe|define|give|tell|name|"
    r"find|compare|summari[sz]e)\b"
)
_GENERIC = frozenset(
    content(
        """advantage alternative answer benefit better bigger caveat cheaper clarify continue default detail details
        difference different disadvantage drawback easier elaborate example examples exactly explain fast faster further
        happen happens help important know later less limit limits long longer maximum mean meaning means minimum new
        next now old option options order other others possible precisely purpose quick reason recommended result
        safe safer say second short shorter simple simpler slow slower specific step steps summarize summary syntax
        third thing things time tip true two way ways work works worse wrong often change undo revert configure adjust
        modify"""
    )
)
"""Words that ask something of a subject without naming one."""

# Other languages ----------------------------------------------------------------------------------------------------

_CHINESE = re.compile(
    r"它|(?<!应)该(?!如何|怎)|这(?!里的文档|些文档|个项目|份文档|个服务)|那|(?<![因彼仅如])此(?!外)|(?<![极尤])其(?![他它中余实])|前者|后者|上述|上面|同样"
    r"|(?<!其)[他她]们?(?!人)|后来呢|还有(?:呢|别的|其他)|(?:换成|改成)|[^\s]呢[？?。！!\s]*$"
)
_CHINESE_LEADING = re.compile(r"^(?:那|而|但是?|还有|另外|然后|接着|所以|再|以及|如果不|如果没|要是)")
_CHINESE_ASKS = re.compile(r"什么是|是什么|何谓|是谁")
_CHINESE_FILLER = re.compile(
    r"如何|怎么样|怎样|怎么|什么|为何|为什么|哪些|哪个|哪里|多少|多久|多长|是否|能否|可否|可以|能不能|请问|请|有没有|需要|应该|要|会|能|有|是|吗|呢|的|了|做|办|来|去|我|你|"
    r"意思|例子|举例|一个|说明|解释|详细|具体|一下|默认|限制|区别|原因|办法|方法|步骤|[，。？！、\s]"
)
_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_FEWEST_HAN = 3
"""Han characters that a complete question has beside its question words: fewer are a verb without its object."""
_JAPANESE = re.compile(
    r"それ|これ|あれ|そこ(?!で使)|[そこあ]の(?![ぁ-ん]?たび|プロジェクト|ドキュメント|文書)|彼女?[はがをのに]|^(?:では|じゃあ?|でも|また|あと|ちなみに|すると)|^[^はがをにで？?]{1,12}は[？?]$"
)
_KOREAN = re.compile(
    r"그것|이것|저것|그거|이거|그건|이건|그게|이게|거기|여기(?!서 말)|^(?:그럼|그러면|그리고|그런데|근데|하지만|또)\b"
    r"|[^\s]{1,10}[은는]요?\?$"
)
_OTHERS = re.compile(
    # German, French, Spanish, Portuguese, Italian, Dutch, Russian: what begins a follow-up, and what points back
    r"^(?:und|aber|oder|was ist mit|wie ist es mit|et|mais|ou alors|qu'en est-il|¿?y|¿?pero|¿?qué tal|mas e|e se"
    r"|e quanto|ma|en hoe|maar|а|и|но|или|тогда)\b"
    r"|\b(?:dies(?:e[rsmn]?)?|damit|dafür|davon|daran|dazu|darauf|dagegen|stattdessen|jene[rsmn]?"
    r"|letztere[rsmn]?|denselben"
    r"|cel(?:ui|le)(?:-ci|-là)?|ceux-ci|celles-ci|cela|ça|ce dernier|cette dernière|lequel|laquelle"
    r"|es[oa]s?|est[oa]s|aquell[oa]s?|isso|isto|aquilo|quest[oa]|quell[oa]|ciò|daarmee|daarvan|hiermee"
    r"|эт(?:о|от|а|и|ого|ому|им|ом|у|ой|их)|он[аои]?|его|её|их|ему|ей|им|нём|ней|туда|там|тот|та|те)\b"
    # their interrogative verbs with the pronoun behind
    r"|\b(?:ist|sind|kann|wird|hat|macht|geht|funktioniert|kostet|heißt)\s+(?:er|sie|das)\b(?!\s+\w)"
)


def needs_history(question: str, history: Sequence[Turn]) -> bool:
    """Whether a question can be understood only with the turns before it; without one of the user's: never."""
    if not any(turn.role == "user" and turn.content.strip() for turn in history):
        return False
    return is_incomplete(question)


def is_incomplete(question: str) -> bool:
    """Whether a question's own words leave out what it is about."""
    asked = " ".join(unicodedata.normalize("NFKC", question).casefold().replace("’", "'").split())
    if _KANA.search(asked):
        return _JAPANESE.search(asked) is not None
    if _HAN.search(asked):
        return _is_incomplete_chinese(asked)
    if regex.search(r"\p{Hangul}", asked):
        return _KOREAN.search(asked) is not None
    asked = asked.lstrip("\"'([*-–—.… ")
    return _OTHERS.search(asked) is not None or _points_back(asked) or _is_elliptic(asked)


def _is_incomplete_chinese(asked: str) -> bool:
    if _CHINESE.search(asked) or _CHINESE_LEADING.match(asked):
        return True
    if _CHINESE_ASKS.search(asked) or re.search(r"[a-z]{2}", asked):
        return False
    return len(_HAN.findall(_CHINESE_FILLER.sub("", asked))) < _FEWEST_HAN


def _points_back(asked: str) -> bool:
    """Whether English words stand for something that the question itself does not name."""
    if any(pattern.search(asked) for pattern in (_LEADING, _TRAILING, _THIS, _THOSE, _THAT, _ONE, _BACK, _WHICH)):
        return True
    bare = _EXPLETIVE.sub(" ", asked)
    subject = _SUBJECT.search(bare)
    if subject is not None and not _is_bound(bare[: subject.start()]):
        return True
    thing = _OBJECT.search(bare)
    if thing is not None and not _is_bound(bare[: thing.start()]):
        return True
    owner = _POSSESSIVE.search(bare)
    if owner is None:
        return False
    return not _is_owned(bare[: owner.start()])


def _is_bound(before: str) -> bool:
    """Whether a pronoun may stand for what the clauses before it, in the same question, name."""
    borders = list(_CLAUSE.finditer(before))
    return bool(borders) and len(content(before[: borders[-1].start()])) >= 2


def _is_owned(before: str) -> bool:
    """Whether "its" may belong to what stands before it: a subject that is named, as in "does FastAPI ... its"."""
    if _is_bound(before):
        return True
    asker = _ASKER.search(before)
    return asker is None and len(telling(before)) >= (1 if _SPOKEN_OF.search(before) else 2)


def telling(text: str) -> frozenset[str]:
    """Return the stems of the text's words that name a subject, and do not only ask something of one."""
    return content(text) - _GENERIC


def _is_elliptic(asked: str) -> bool:
    """Whether a question names nothing, or is a fragment such as "On Windows?"."""
    subjects = telling(asked)
    if not subjects:
        return True
    if _OPENS.match(asked):
        return False
    return asked.endswith("?") and len(subjects) <= 2 and len(asked.split()) <= 4
