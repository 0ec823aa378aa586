"""How mkdocstrings reads our sources: what they say for a terminal is made fit for a page."""

import re

import griffe

FIELD = re.compile(r"\s*(\w+): [^#]*# (.*)")
CHANGES = (
    (r"^(\s*)Example:$", r"\1Examples:"),  # the heading whose content is read as code
    (r"^(\s+\w+: )>", r"\1\\>"),  # a bound, no quotation
    (r"^Source: ", r"**Source:** "),
)


class Docstrings(griffe.Extension):
    """Changes what is written, and lists the fields of a class by the comments beside them."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            for old, new in CHANGES:
                obj.docstring.value = re.sub(old, new, obj.docstring.value, flags=re.MULTILINE)

    def on_class(self, *, cls, **kwargs):
        if cls.docstring and "Attributes:" not in cls.docstring.value:
            found = [match.groups() for line in cls.lines if (match := FIELD.fullmatch(line))]
            rows = [f"    {name}: {text}" for name, text in found if name in cls.members]
            if rows:
                cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)
