"""Trains the VAE (pretrain.target=vae) or the generator (pretrain.target=generator) into pretrain.out."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raydistill.entry import start

if __name__ == "__main__":
    sys.exit(start("pretrain"))
