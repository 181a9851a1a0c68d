"""raydistill: distil a labelled image set into a few images per class, on Ray, killable at any moment."""

__version__ = "0.1.0"
