"""Names that other libraries give to fields and parameters, and the names that they have here."""

from collections.abc import Collection

_LR = ("lr", "peak_lr", "max_lr", "base_lr")
_STEPS = ("total_steps", "num_training_steps")
_WARMUP = ("warmup_steps", "num_warmup_steps", "warmup_t")
_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("learningrate", "optimizerlr", "initlr", "initiallr", "startlr", "alpha", "stepsize"): _LR,
    ("peaklr", "maxlr", "baselr", "peaklearningrate", "maxlearningrate"): _LR,
    ("lr",): _LR[1:],
    ("minlr", "finallr", "endlr", "minlearningrate", "etamin"): ("end_lr", "min_lr", "final_lr", "lr_min", "eta_min"),
    ("wd", "l2", "l2reg", "decay", "optimizerweightdecay"): ("weight_decay",),
    ("beta1", "beta2", "b1", "b2", "adambeta1", "adambeta2", "adambetas", "optbetas"): ("betas",),
    ("epsilon", "adamepsilon", "opteps"): ("eps",),
    ("warmup", "numwarmup", "nwarmup", "warmupupdates", "warmupiters"): _WARMUP,
    ("warmupsteps", "numwarmupsteps"): _WARMUP,
    ("scheduler", "lrscheduler", "lrschedule", "sched", "schedulertype", "lrschedulertype"): ("schedule",),
    ("maxgradnorm", "clipgradnorm", "gradclip", "clipgrad", "gradientclipval", "gradientclipping"): ("grad_clip_norm",),
    ("fused", "foreach", "impl", "kernel", "backend"): ("implementation",),
    ("maxnorm", "gradclipnorm", "gradnormclip"): ("grad_clip_norm",),
    ("bs", "batch", "batchsize", "trainbatchsize", "localbatchsize"): ("batch_size",),
    ("perdevicetrainbatchsize", "globalbatchsize", "minibatchsize"): ("batch_size",),
    ("numworkers", "nworkers", "dataloadernumworkers", "numproc"): ("workers",),
    ("pinmem", "pin", "dataloaderpinmemory"): ("pin_memory",),
    ("step", "steps", "maxsteps", "numsteps", "trainsteps", "iterations", "iters", "maxiters", "niter"): _STEPS,
    ("trainingsteps", "numtrainsteps", "updates", "maxupdates", "maxiterations", "totalsteps"): _STEPS,
    ("epoch", "numepochs", "maxepochs", "nepochs", "numtrainepochs", "totalepochs"): ("epochs",),
    ("outputdir", "outdir", "output", "savedir", "logdir", "workdir", "defaultrootdir", "dumpfolder"): ("run_dir",),
    ("checkpointdir", "rundirectory", "jobname", "runname", "expname", "experimentname"): ("run_dir",),
    ("savefreq", "saveinterval", "savesteps", "checkpointinterval", "everyntrainsteps"): ("save_every",),
    ("checkpointevery", "saveevery"): ("save_every",),
    ("logfreq", "loginterval", "loggingsteps", "logeverynsteps", "printfreq"): ("log_every",),
    ("evalfreq", "evalinterval", "evalsteps", "valcheckinterval", "checkvaleverynepoch"): ("eval_every", "every"),
    ("validationfreq", "valinterval", "valevery", "envevalfreq"): ("eval_every", "every"),
    ("amp", "useamp", "mixedprecision", "fp16", "bf16", "dtype", "autocast"): ("precision",),
    ("gradientaccumulationsteps", "gradaccum", "gradaccumulation", "accumulategradbatches"): ("accumulate",),
    ("accumulationsteps", "gradaccumsteps", "accumsteps"): ("accumulate",),
    ("savetotallimit", "keeplatestk", "keeplastn", "maxtokeep", "keepcheckpoints"): ("keep_last",),
    ("savetopk", "loadbestmodelatend", "savebest"): ("keep_best",),
    ("torchcompile", "compilemodel"): ("compile",),
    ("loss", "criterion", "lossfn", "lossfunction"): ("objective",),
    ("accelerator", "nocuda", "usecpu", "cuda", "gpu", "gpus"): ("device",),
    ("logger", "loggers", "reportto", "wandb", "tensorboard"): ("log",),
    ("modelema", "useema", "emadecay", "ema"): ("ema",),
    ("evaluation", "env", "environment", "gym"): ("evaluation",),
    ("manualseed", "randomseed", "randomstate", "rngseed"): ("seed",),
    ("dataset", "datasets", "datamodule", "dataloader"): ("data",),
    ("imports", "usermodules", "customimports"): ("plugins",),
    ("trainer", "training", "fit"): ("train",),
    ("network", "net", "modules"): ("model", "components"),
    ("optimizer", "optimizers", "optim", "optims", "componentoptim"): ("component_optims",),
    ("component", "submodules"): ("components",),
    ("kind", "name", "class", "target", "classpath", "key"): ("type",),
    ("args", "kwargs", "initargs", "options", "parameters", "param"): ("params",),
    ("frozen", "requiresgrad", "trainable"): ("freeze",),
    ("pretrained", "checkpoint", "ckpt", "ckptpath", "weights", "resume", "initcheckpoint"): ("init_from",),
    ("hiddensize", "hiddendim", "hiddensizes", "hiddendims", "hiddenlayers"): ("hidden",),
    ("inputsize", "inputdim", "indim", "infeatures", "inchannels"): ("in_features", "in_channels"),
    ("outputsize", "outputdim", "outdim", "outfeatures", "numclasses"): ("out_features", "num_classes"),
}
"""The names here, the likeliest first, by those of others in lower case without _ and -."""
_BY_NAME = {name: ours for names, ours in _NAMES.items() for name in names}


def synonyms(name: str) -> tuple[str, ...]:
    """Return the names that a field with this name in another library has here, the likeliest first."""
    return _BY_NAME.get(folded(name), ())


def synonym(name: str, known: Collection[str]) -> str | None:
    """Return the one of `known` that means the same as `name`; None: there is none."""
    return next((ours for ours in synonyms(name) if ours in known and ours != name), None)


def folded(name: str) -> str:
    """Return a name in lower case without _ and -, in which spellings differ."""
    return name.lower().replace("_", "").replace("-", "")
