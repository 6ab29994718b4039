"""How pictures become the numbers of an array value."""

from __future__ import annotations

from enum import StrEnum

from atoll_contract.feature import Part


class Channels(StrEnum):
    """What the numbers of a pixel are, in order."""

    RGB = "rgb"
    BGR = "bgr"
    GREY = "grey"


class Fit(StrEnum):
    """How a picture of other proportions fills the model's."""

    STRETCH = "stretch"
    """All of it, distorted."""
    CROP = "crop"
    """Its middle, as much as has the model's proportions."""
    PAD = "pad"
    """All of it, in the middle of black."""


class PixelResampling(StrEnum):
    """How pixels become fewer or more; all but ``nearest`` take the mean of those that become one."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class PictureSpec(Part):
    """How a JPEG or PNG becomes the numbers of an array value, each from 0 to 255.

    Attributes:
        channels: ``rgb``, ``bgr`` or ``grey``.
        fit: ``stretch``, ``crop`` (its middle) or ``pad`` (black around it).
        resampling: ``nearest``, ``box``, ``bilinear`` or ``bicubic``.
    """

    channels: Channels = Channels.RGB
    fit: Fit = Fit.STRETCH
    resampling: PixelResampling = PixelResampling.BILINEAR
