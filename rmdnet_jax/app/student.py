class Student:
    classes = ()
    @classmethod
    def of(cls, *a, **k): return cls()
    def save(self, path): path.write_bytes(b"")
def load(path, encoder=None): pass
