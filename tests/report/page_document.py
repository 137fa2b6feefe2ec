"""A page, parsed."""

from html.parser import HTMLParser

VOID = {"br", "img", "input", "link", "meta"}


class Document(HTMLParser):
    """Elements in order, as (name, attributes, text within), and errors of nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open, self.errors = [], [], []
        self.feed(text)
        self.close()
        self.errors += [entry[0] for entry in self._open]

    def handle_starttag(self, tag, attrs):
        entry = [tag, dict(attrs), ""]
        self.elements.append(entry)
        if tag not in VOID:
            self._open.append(entry)

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        if self._open and self._open[-1][0] == tag:
            self._open.pop()
        else:
            self.errors.append(f"/{tag}")

    def handle_data(self, data):
        for entry in self._open:
            entry[2] += data

    def all(self, *names):
        return [entry for entry in self.elements if entry[0] in names]
