# Run under any other name (from the repository's root this folder is importable as plain `engine`), this file would
# start a second copy of every module; with an empty path there is nothing below it to import.
if __name__ != "totalog.engine":
    __path__ = []
