"""Dense networks: CIFAR ResNets by widths, torchvision's classifiers, users' networks by module:function.

A network built here has a `Spec` attached, from which akgp.artifacts builds it again. Training, pruning and
saving are done elsewhere.

To build one: `building`, of `resnet`, torchvision or `user_code`, by its `spec`, but `plain`, in no wrapper;
`checkpoint` and `renormalized` take one that is trained, `lazy_layers` get their sizes, `origin` finds what
built one. What a cut network needs in its code: `layout`, `view_sizes`, `attention`, `window_attention`,
`bypassed`. To run one: `inputs`, `eval_mode`, `memory_format`, `top1`; to copy one: `copying`.
"""

from akgp.models.building import build, check_output, create, first_outputs
from akgp.models.checkpoint import load_checkpoint, read_checkpoint
from akgp.models.inputs import Inputs
from akgp.models.resnet import ChannelMap, cifar_resnet
from akgp.models.spec import ModelError, Spec, spec_of

__all__ = [
    "ChannelMap",
    "Inputs",
    "ModelError",
    "Spec",
    "build",
    "check_output",
    "cifar_resnet",
    "create",
    "first_outputs",
    "load_checkpoint",
    "read_checkpoint",
    "spec_of",
]
