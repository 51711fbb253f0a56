"""The functions of the Berkeley Function Calling Leaderboard's data as JSON schemas."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "bfcl-eval==2026.3.23"
FILES = ["simple_python", "live_simple", "multiple", "live_multiple"]
TYPES = {"dict": "object", "float": "number", "tuple": "array", "int": "integer"}


def fetch():
    """The package's data; only the wheel is fetched, as its dependencies are other models' clients."""
    folder = ROOT / "target" / "bfcl"
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
        subprocess.run([*pip, PACKAGE], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def mapped(schema):
    """The data's own types as those of JSON schema; what says nothing of its type may be anything."""
    if isinstance(schema, list):
        return [mapped(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            if value != "any":
                result[key] = TYPES.get(value, value)
        elif key == "properties":
            result[key] = {name: mapped(one) for name, one in value.items()}
        elif key in ("enum", "default", "required"):
            result[key] = value
        else:
            result[key] = mapped(value)
    return result


def functions(n):
    """The first `n` functions of different names: {name, description, parameters}."""
    found = {}
    archive = fetch()
    for name in FILES:
        for line in archive.read(f"bfcl_eval/data/BFCL_v4_{name}.json").decode().splitlines():
            for function in json.loads(line)["function"]:
                plain = "".join(c if c.isalnum() or c in "_-." else "_" for c in function["name"])
                parameters = mapped(function["parameters"])
                found.setdefault(plain[:64], function | {"name": plain[:64], "parameters": parameters})
                if len(found) == n:
                    return list(found.values())
    raise AssertionError(f"only {len(found)} functions")
