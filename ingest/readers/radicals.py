"""Radicals that stand for ideographs, as PDFs give them out: mapped back to what people type and search for.

A PDF's font may map one glyph to two characters, and the extractor then returns U+2F83 for U+81EA: they look alike
and compare as different. Three blocks are concerned. Kangxi Radicals and CJK Compatibility Ideographs have their
equivalents in Unicode's own decompositions (NFKC); the CJK Radicals Supplement mostly has none there, so its table is
here: property Equivalent_Unified_Ideograph of Unicode 14 (EquivalentUnifiedIdeograph.txt), all 114 of the block.
"""

import re
import unicodedata

SUPPLEMENT_RADICALS = (
    "⺁⺂⺃⺄⺅⺆⺇⺈⺉⺊⺋⺌⺍⺎⺏⺐⺑⺒⺓⺔⺕⺖⺗⺘⺙⺛⺜⺝⺞⺟⺠⺡⺢⺣⺤⺥⺦⺧"
    "⺨⺩⺪⺫⺬⺭⺮⺯⺰⺱⺲⺳⺴⺵⺶⺷⺸⺹⺺⺻⺼⺽⺾⺿⻀⻁⻂⻃⻄⻅⻆⻇⻈⻉⻊⻋⻌⻍"
    "⻎⻏⻐⻑⻒⻓⻔⻕⻖⻗⻘⻙⻚⻛⻜⻝⻞⻟⻠⻡⻢⻣⻤⻥⻦⻧⻨⻩⻪⻫⻬⻭⻮⻯⻰⻱⻲⻳"
)
SUPPLEMENT_IDEOGRAPHS = (
    "厂乛乚乙亻冂𠘨刀刂卜㔾小小兀尣尢𡯂巳幺彑彐忄心扌攵旡日月歺母民氵氺灬爫爫丬牛"
    "犭王𤴔目示礻𥫗糹纟罓罒㓁冗𦉫羊𦍌𦍋耂肀聿肉𦥑艹艹艹虎衤覀西见角𧢲讠贝𧾷车辶辶"
    "辶邑钅長镸长门𨸏阝雨青韦页风飞食𩙿飠饣𩠐马骨鬼鱼鸟卤麦黄黾斉齐歯齿竜龙龜亀龟"
)

_CONCERNED = re.compile("[\u2e80-\u2eff\u2f00-\u2fdf\uf900-\ufaff]")
_IDEOGRAPHS = dict(zip(SUPPLEMENT_RADICALS, SUPPLEMENT_IDEOGRAPHS, strict=True))


def unify(text: str) -> str:
    """Replace compatibility radicals and ideographs by the unified ideographs they stand for."""
    return _CONCERNED.sub(_ideograph, text)


def _ideograph(found: re.Match[str]) -> str:
    character = found[0]
    return _IDEOGRAPHS.get(character) or unicodedata.normalize("NFKC", character)
