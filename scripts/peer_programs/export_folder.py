"""Writes prepared fp32 weights as a Hugging Face folder, and that as genai's fp32 CPU graph.

All arms so read the same numbers. Config and tokenizer are what transformers reads of the GGUF.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer


def main(gguf: Path, prepared: Path, folder: Path) -> None:
    hf = folder / "hf"
    config = AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(hf)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(hf)
    shutil.copyfile(prepared, hf / "model.safetensors")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(hf)]
    target = ["-o", str(folder / "genai-fp32"), "-p", "fp32", "-e", "cpu"]
    subprocess.run([*builder, *target, "-c", str(folder / "cache")], check=True)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
