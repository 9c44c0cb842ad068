"""Tags the lines of standard input with FOLDER, made by `xlt-engine export TAGGER FOLDER --to onnx`, without torch."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_bytes())
tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(config["xlt"]["max_length"])
tokenizer.enable_padding(pad_id=config["pad_token_id"])
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

word = r"\S+" if config["xlt"]["split"] == "whitespace" else r"\w+(?:[-.,'’&/]\w+)*|\S"  # as the model's training text
lines = [re.findall(word, line) for line in sys.stdin if line.strip()]
rows = tokenizer.encode_batch(lines, is_pretokenized=True)
inputs = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
feed = {i.name: np.array([getattr(row, inputs[i.name]) for row in rows], dtype=np.int64) for i in session.get_inputs()}
logits, voters = session.run(["logits", "voters"], feed)  # logarithms: [B, L, C] of the mean probability, [M, B, L, C]
sure = np.exp(voters.max(-1).min(0)) * (voters.argmax(-1) == voters.argmax(-1)[0]).all(0)  # 0 where voters disagree
for line, row, logit, least in zip(lines, rows, logits, sure, strict=True):
    for i, owner in enumerate(row.word_ids):
        if owner is not None and owner != row.word_ids[i - 1]:  # the first piece of a word has its label
            label = config["id2label"][str(logit[i].argmax())]
            print(line[owner], f"{np.exp(logit[i].max()):.4f}", label, f"{least[i]:.4f}", sep="\t")
    print()
