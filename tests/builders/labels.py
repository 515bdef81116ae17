"""Label schemes."""

from autoseg.labels import LabelClass, LabelScheme


def build_labels(
    classes: dict[str, tuple[int, ...]],
    *,
    ignore_value: int | None = None,
    region_write_values: tuple[int, ...] | None = None,
) -> LabelScheme:
    """Classes by name and file values; several values make a region, and regions need values to write."""
    return LabelScheme(
        classes=tuple(LabelClass(name=name, values=values) for name, values in classes.items()),
        ignore_value=ignore_value,
        region_write_values=region_write_values,
        declared_count=1 + len(classes) + (ignore_value is not None),
    )


def build_plain_labels(count: int, *, with_ignore: bool = False) -> LabelScheme:
    """Classes `class1`, `class2`, ... of the values 1, 2, ...; the next value may be the one that is ignored."""
    classes = {f"class{value}": (value,) for value in range(1, count + 1)}
    return build_labels(classes, ignore_value=count + 1 if with_ignore else None)
