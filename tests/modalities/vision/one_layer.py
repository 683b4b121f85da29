"""The numbers of the smallest vision-language models: one layer of each part, cells of 16 pixels."""

ONE_LAYER = {
    "hidden": 32,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "vision_hidden": 32,
    "vision_layers": 1,
    "vision_heads": 2,
    "patch": 8,
}
