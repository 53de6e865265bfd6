"""Write a folder of noise images, labelled and not: enough to measure what a run on real ones costs.

python benchmarks/noise_images.py outputs/noise 1024
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

NUM_LABELLED = 200
SIDE = 256  # pixels, as photographs are usually resized to before the crop


def main(folder: str, num_calibration: str) -> None:
    """Smooth noise in `calibration`, and in val/<class index> for ten classes."""
    rng = np.random.default_rng(0)
    places = [f"val/{i % 10}/{i}.jpg" for i in range(NUM_LABELLED)]
    places += [f"calibration/{i}.jpg" for i in range(int(num_calibration))]
    for place in places:
        path = Path(folder) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
