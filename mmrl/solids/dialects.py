"""Dialects of CAD programs: what one may import and name, where its result is, and which runner runs it.

The tables are a first sieve over a program's syntax tree, no boundary: a name that leads out of a library is refused
here so that an honest program is told what is wrong, and the sandbox stops what a dishonest one finds.
"""

from __future__ import annotations

from dataclasses import dataclass

_MATH = frozenset({"math", "cmath", "random", "itertools", "functools", "collections", "dataclasses", "typing", "enum"})
_MATH |= {"numpy", "__future__"}
# Attributes that reach a file, a viewer, a module or the kernel below the library, in every dialect.
_OUT = frozenset(
    {
        *("os", "sys", "io", "re", "path", "pathlib", "inspect", "tempfile", "importlib", "builtins", "threading"),
        *("subprocess", "ctypes", "logging", "warnings", "copyreg", "copy_reg", "pickle", "json", "uuid", "shutil"),
        *("load", "save", "tofile", "fromfile", "genfromtxt", "loadtxt", "savetxt", "savez", "memmap", "lib", "f2py"),
        *("wrapped", "OCP", "vtk", "ezdxf", "casadi", "nlopt", "testing", "ctypeslib", "distutils"),
    }
)
_CADQUERY = frozenset(
    {
        *("exporters", "importers", "occ_impl", "assembly", "cq", "hull", "selectors", "sketch", "plugins", "vis"),
        *("cqgi", "types", "func", "free_functions", "shapes", "geom", "solver", "utils", "warn", "exports", "dxf"),
        *("export", "exportBin", "exportBrep", "exportDXF", "exportShape", "exportStep", "exportStl", "exportSvg"),
        *("importBin", "importBrep", "importDXF", "importShape", "importStep", "loadBrep", "fromBrep", "toSvg"),
        *("toVTK", "toVTKPolyData", "toVtkPolyData", "toJSON", "toOCC", "_repr_javascript_", "getSVG", "text", "plot"),
        *("importSTEP", "importDxf", "exportAssembly", "exportCAF", "exportGLTF", "exportVRML", "exportVTKJS"),
    }
)
_BUILD123D = frozenset(
    {
        *("exporters", "exporters3d", "importers", "mesher", "persistence", "drafting", "pack", "topology", "geometry"),
        *("export_brep", "export_gltf", "export_step", "export_stl", "export_svg", "import_brep", "import_step"),
        *("import_stl", "import_svg", "import_svg_as_buildline_code", "import_svg_document", "ExportDXF", "ExportSVG"),
        *("Mesher", "Text", "serialize_shape", "deserialize_shape", "export_3mf", "show_topology", "make_text"),
    }
)


@dataclass(frozen=True)
class Dialect:
    """runner: the module that runs its programs. imports: modules that a program may import, with what is below them.
    refused: names that it may neither import nor use, as an attribute or alone. results: variables that hold the result,
    the first that is there. shown: the function that a viewer has, whose argument is a result.
    """

    name: str
    runner: str
    imports: frozenset[str]
    refused: frozenset[str]
    results: tuple[str, ...]
    shown: str = "show_object"


DIALECTS = {
    "cadquery": Dialect(
        "cadquery", "mmrl.solids.runners.cadquery", _MATH | {"cadquery"}, _OUT | _CADQUERY, ("result", "r", "solid", "part")
    ),
    "build123d": Dialect(
        "build123d", "mmrl.solids.runners.build123d", _MATH | {"build123d"}, _OUT | _BUILD123D, ("result", "part"), "show"
    ),
}


def dialect(name: str) -> Dialect:
    """Raises ValueError for an unknown one."""
    if name not in DIALECTS:
        raise ValueError(f"dialect={name!r} is none of {', '.join(DIALECTS)}")
    return DIALECTS[name]
