"""Words of wiki markup that each language has for itself: namespaces, tags, templates of disambiguation pages."""

from __future__ import annotations

import re

# What `[[X:...]]` shows as picture or not at all, in lower case; English works in every wiki.
_FILES = {
    "": "file image media",
    "ar": "ملف صورة",
    "bg": "файл картинка",
    "ca": "fitxer imatge",
    "cs": "soubor",
    "da": "fil billede",
    "de": "datei bild",
    "el": "αρχείο εικόνα",
    "es": "archivo imagen",
    "eu": "fitxategi irudi",
    "fa": "پرونده تصویر",
    "fi": "tiedosto kuva",
    "fr": "fichier",
    "he": "קובץ תמונה",
    "hi": "चित्र",
    "hu": "fájl kép",
    "id": "berkas gambar",
    "it": "immagine",
    "ja": "ファイル 画像",
    "ko": "파일 그림",
    "nb": "fil bilde",
    "nl": "bestand afbeelding",
    "pl": "plik grafika",
    "pt": "ficheiro imagem arquivo",
    "ro": "fișier imagine",
    "ru": "файл изображение",
    "sv": "fil bild",
    "th": "ไฟล์ ภาพ",
    "tr": "dosya resim",
    "uk": "файл зображення",
    "vi": "tập_tin hình",
    "zh": "文件 檔案 图像 圖像",
}
_CATEGORIES = {
    "": "category",
    "ar": "تصنيف",
    "bg": "категория",
    "ca": "categoria",
    "cs": "kategorie",
    "da": "kategori",
    "de": "kategorie",
    "el": "κατηγορία",
    "es": "categoría categoria",
    "eu": "kategoria",
    "fa": "رده",
    "fi": "luokka",
    "fr": "catégorie",
    "he": "קטגוריה",
    "hi": "श्रेणी",
    "hu": "kategória",
    "id": "kategori",
    "it": "categoria",
    "ja": "カテゴリ",
    "ko": "분류",
    "nb": "kategori",
    "nl": "categorie",
    "pl": "kategoria",
    "pt": "categoria",
    "ro": "categorie",
    "ru": "категория",
    "sv": "kategori",
    "th": "หมวดหมู่",
    "tr": "kategori",
    "uk": "категорія",
    "vi": "thể_loại",
    "zh": "分类 分類",
}
_DISAMBIGUATION = (
    r"(?:\w[\w\s]{0,60}\s)?disambiguation(?: page| cleanup)?",
    "disambig",
    "disamb",
    "dab",
    "hndis",
    "geodis",
    "numberdis",
    "mathdab",
    "begriffsklärung",
    "homonymie",
    "homonymie de [^|{}]+",
    "bandeau standard pour page d'homonymie",
    "paronymie",
    "patronymie",
    "toponymie",
    "internationalisation",
    "desambiguación",
    "desambiguacion",
    "desambiguação",
    "desambiguacao",
    "desambig",
    "desambigua",
    "disambigua",
    "dp",
    "dpintro",
    "doorverwijspagina",
    "desambiguació",
    "aimai",
    "曖昧さ回避",
    "人名の曖昧さ回避",
    "地名の曖昧さ回避",
    "消歧义",
    "消歧義",
    "消歧义页",
    "消歧義頁",
    "人名消歧义",
    "人名消歧義",
    "地名消歧义",
    "地名消歧義",
    "동음이의",
    "ujednoznacznienie",
    "förgrening",
    "flertydig",
    "peker",
    "pekerside",
    "täsmennyssivu",
    "rozcestník",
    "egyért",
    "egyértelműsítő",
    "anlam ayrımı",
    "dezambiguizare",
    "argipen",
    "định hướng",
    "trang định hướng",
    "неоднозначность",
    "многозначность",
    "багатозначність",
    "неоднозначність",
    "пояснителна страница",
    "αποσαφήνιση",
    "توضيح",
    "ابهام‌زدایی",
    "פירושונים",
    "แก้กำกวม",
    "बहुविकल्पी",
)
_IN_TITLE = (
    "disambiguation|begriffsklärung|homonymie|desambiguación|desambiguação|disambigua|doorverwijspagina|desambiguació|"
    "曖昧さ回避|消歧义|消歧義|동음이의|ujednoznacznienie|olika betydelser|flertydig|andre betydninger|täsmennyssivu|"
    "rozcestník|egyértelműsítő lap|anlam ayrımı|dezambiguizare|argipena|định hướng|значения|значення|пояснение|"
    "αποσαφήνιση|توضيح|ابهام‌زدایی|פירושונים"
)

DISAMBIGUATION_TEMPLATE = re.compile(
    r"\{\{\s*(?:template:|vorlage:)?(?:" + "|".join(_DISAMBIGUATION).replace(" ", "[ _]") + r")\s*(?:\||\}\})"
    r"|__DISAMBIG__",
    re.I,
)
DISAMBIGUATION_TITLE = re.compile(rf".+[ _]?[(（](?:{_IN_TITLE})[)）]", re.I)

# Two or three small letters, perhaps more after a hyphen, before the colon: a link to another language's wiki.
INTERLANGUAGE = re.compile(r"(?:[a-z]{2,3}(?:-[a-z]+)*|simple|nds-nl|roa-rup|map-bms)")

# Tags whose content is no text; a tag of another name goes and its content stays.
HIDDEN_TAGS = (
    "ref|references|math|chem|ce|gallery|timeline|syntaxhighlight|source|score|imagemap|graph|hiero|templatedata|"
    "mapframe|maplink|includeonly|inputbox|categorytree|dynamicpagelist|indicator|style|script|table|pre"
)
# Tags at which a paragraph ends.
BLOCK_TAGS = "p|div|blockquote|center|li|ul|ol|dl|dd|dt|h[1-6]|tr|td|th|table|hr|poem"


def hidden_namespaces(language: str) -> frozenset[str]:
    """Prefixes of links that are pictures or categories in the wiki of a language, in lower case, with spaces."""
    code = language.lower().split("-")[0]
    code = {"no": "nb", "nn": "nb", "yue": "zh", "wuu": "zh", "gl": "pt"}.get(code, code)
    words = [words for table in (_FILES, _CATEGORIES) for key in ("", code) for words in table.get(key, "").split()]
    return frozenset(word.replace("_", " ") for word in words)
