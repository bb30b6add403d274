"""``products.toml``: the product lines of a program, edited by hand or by ``batch create``."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec

from scanengine.codes import gtin_fault
from scanengine.errors import AssignmentError, SettingsError
from scanengine.model import Product
from scanengine.tables.container import publish_bytes


class _ProductFile(msgspec.Struct, forbid_unknown_fields=True):
    products: list[Product] = []


def check_gtin(gtin: str) -> str:
    """Return a GTIN whose check digit is right; AssignmentError otherwise."""
    fault = gtin_fault(gtin)
    if fault:
        raise AssignmentError(f"product: {fault}")
    return gtin


def load_products(path: Path) -> dict[str, Product]:
    """Return product by GTIN; a missing file has none.

    Raises
    ------
    SettingsError
        If the file is not TOML, has a wrong entry, or gives a GTIN twice.
    """
    try:
        return _products_of(path, path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error


def _products_of(path: Path, text: str) -> dict[str, Product]:
    try:
        entries = msgspec.convert(tomllib.loads(text), _ProductFile).products
    except ValueError as error:  # Of TOML, of a number too long, of msgspec.
        raise SettingsError(f"{path}: {error}") from error
    products: dict[str, Product] = {}
    for place, product in enumerate(entries):
        try:
            check_gtin(product.gtin)
        except AssignmentError as error:
            raise SettingsError(f"{path}: products[{place}]: {error}") from error
        if product.gtin in products:
            raise SettingsError(f"{path}: products[{place}]: GTIN {product.gtin} is given twice")
        products[product.gtin] = product
    return products


def add_product(path: Path, product: Product) -> None:
    """Add a product line if its GTIN has none yet. The caller holds the workspace's lock.

    Raises
    ------
    AssignmentError
        If there is one with another title: the file is its owner's, and is not overwritten. Or if a line cannot be
        appended to the file as it is written.
    """
    known = load_products(path).get(check_gtin(product.gtin))
    if known is not None:
        if known.title != product.title:
            raise AssignmentError(
                f"{path}: product {product.gtin} is {known.title!r} already, not {product.title!r}: "
                "edit the file to rename it"
            )
        return
    old = path.read_text("utf-8") if path.exists() else ""
    # A JSON string is a TOML basic string, but for the one control character that JSON does not escape.
    fields = {name: value for name, value in msgspec.structs.asdict(product).items() if value is not None}
    quoted = {name: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for name, value in fields.items()}
    lines = [f"{name} = {value}" for name, value in quoted.items()]
    new = "\n".join([old.rstrip(), "", "[[products]]", *lines, ""]).lstrip()
    try:
        content = new.encode()
        _products_of(path, new)
    except (UnicodeEncodeError, SettingsError) as error:
        raise AssignmentError(f"product {product.gtin} cannot be added, add it by hand: {error}") from error
    publish_bytes(path, content, replace=True, mode=0o644)
