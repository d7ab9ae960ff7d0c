from golden import leaf, save


def run(options):
    def product(a, b):
        return (a.mT if options["transposeA"] else a) @ (b.mT if options["transposeB"] else b)

    return product


cases = []
for ta in (False, True):
    for tb in (False, True):
        options = {"transposeA": ta, "transposeB": tb}
        a = leaf(2, 5, 3) if ta else leaf(2, 3, 5)
        b = leaf(2, 4, 5) if tb else leaf(2, 5, 4)
        cases.append((f"{'T' if ta else 'N'}{'T' if tb else 'N'}", {"a": a, "b": b}, options, run(options)))
save(__file__, cases)
