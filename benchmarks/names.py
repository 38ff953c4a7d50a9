"""Names of contenders that a table or a sentence of docs/benchmarks.md looks up."""

FUSED = "torch AdamW(fused=True)"
USUAL = "torch AdamW + LambdaLR, as users write it"
LIBRARY = "schedulefree.RAdamScheduleFree"
TIMM = "timm AdamWLegacy(caution=True)"

WARMUP, CAUTIOUS, SCHEDULE_FREE = "`adamw_warmup_cosine_decay`", "`adamw`, cautious", "`schedule_free_radam`"
UNCLIPPED, CLIPPED = "`adamw`, not clipped", "`adamw`, clipped"

ALL, ALL_CLIPPED = "one AdamW(fused=True) over all", "one AdamW(fused=True) over all, clipped"
EACH_CLIPPED = "100 `adamw` with a cosine, each clipped"

BY_HAND, OURS = "written by hand", "innerstep"

TORCH_SAVE, SAVE = "torch.save", "ours: files, checksums, fsync"
STALL = "ours with `save_async`: how long training waits"

COPY = "a copy"
