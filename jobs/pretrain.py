"""Trains the VAE (pretrain.target=vae) or the generator (pretrain.target=generator) into pretrain.out."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raydistill.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
