#!/usr/bin/env python3
"""Trains the demo model models/shakespeare-llama: a byte-level BPE tokenizer and a small LlamaForCausalLM.

    pip install -r scripts/requirements-golden.txt
    python scripts/train_demo_model.py TEXT models/shakespeare-llama [--steps N]      trains, saves, evaluates
    python scripts/train_demo_model.py TEXT models/shakespeare-llama --evaluate       evaluates and samples only

TEXT is a plain UTF-8 file of plays: speeches separated by blank lines. Its last tenth (from the first blank line after
90 % of the text) is held out: neither the tokenizer nor the model sees it; `--heldout FILE` writes it to a file, so
that `blade perplexity` can be run on it. The weights with the lowest held-out loss are saved, rounded to bfloat16.

Perplexity here is what `blade perplexity MODEL FILE` computes: the whole file is tokenized at once, cut into windows of
max_position_embeddings tokens that do not overlap, each window beginning with BOS (so it holds one token less of the
text); the mean negative log-likelihood is taken over all predicted tokens (all but the BOS).

Made with Python 3.11, torch 2.13.0+cpu, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0, numpy 2.4.6.
"""

import argparse
import json
import math
import pathlib
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<|begin|>", "<|end|>"
CONTEXT = 512
VOCAB = 1024


def split_text(text):
    """Returns (train, heldout); the cut is the first start of a speech after 90 % of the text."""
    cut = text.index("\n\n", len(text) * 9 // 10) + 2
    return text[:cut], text[cut:]


def train_tokenizer(text):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[BOS, EOS], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator([text], trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))])
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=BOS, eos_token=EOS, model_max_length=CONTEXT,
                                   clean_up_tokenization_spaces=False)


def make_model(tok):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tok), hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id))


def add_dropout(model, p):
    """Dropout on the embeddings and on what each block adds to the residual stream; transformers' Llama has none."""
    def drop_first(_module, _args, out):
        if isinstance(out, tuple):
            return (torch.nn.functional.dropout(out[0], p, model.training),) + out[1:]
        return torch.nn.functional.dropout(out, p, model.training)

    model.model.embed_tokens.register_forward_hook(drop_first)
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop_first)
        layer.mlp.register_forward_hook(drop_first)


def batches(ids, tok, batch, generator):
    """Yields (inputs, labels), each (batch, CONTEXT): BOS and a passage of the text. Half of the passages begin at the
    start of a speech, the rest anywhere; one in eight is cut at the end of a speech and closed with EOS."""
    newline = tok.convert_tokens_to_ids("Ċ")
    blank = [i + 2 for i in range(len(ids) - 1) if ids[i] == newline and ids[i + 1] == newline]
    starts = torch.tensor(blank)
    ids = torch.tensor(ids)
    is_start = torch.zeros(len(ids) + 1, dtype=torch.bool)
    is_start[starts] = True
    starts = starts[starts < len(ids) - CONTEXT]

    def randint(n):
        return int(torch.randint(n, (1,), generator=generator))

    while True:
        x = torch.full((batch, CONTEXT), tok.eos_token_id)
        y = torch.full((batch, CONTEXT), -100)
        for b in range(batch):
            at = int(starts[randint(len(starts))]) if randint(2) else randint(len(ids) - CONTEXT)
            row = ids[at : at + CONTEXT]
            if randint(8) == 0:
                ends = is_start[at + 1 : at + CONTEXT].nonzero().flatten()
                keep = int(ends[randint(len(ends))]) + 1 if len(ends) else CONTEXT - 1
                row = torch.cat([row[:keep], torch.tensor([tok.eos_token_id])])
            x[b, 0] = tok.bos_token_id
            x[b, 1 : len(row)] = row[:-1]
            y[b, : len(row)] = row
        yield x, y


@torch.no_grad()
def heldout_loss(model, ids, bos):
    """Mean negative log-likelihood (nats per token) as defined in the head of this file."""
    model.eval()
    total = 0.0
    for at in range(0, len(ids), CONTEXT - 1):
        row = torch.tensor([[bos] + ids[at : at + CONTEXT - 1]])
        logits = model(row[:, :-1], use_cache=False).logits[0].float()
        total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
    model.train()
    return total / len(ids)


def train(args, tok, train_ids, heldout_ids):
    """Trains and leaves the model with the lowest held-out loss, rounded to bfloat16, in args.model."""
    model = make_model(tok)
    add_dropout(model, args.dropout)
    print(f"{model.num_parameters():,} parameters, {len(train_ids):,} training, {len(heldout_ids):,} held-out tokens")
    decay = [p for p in model.parameters() if p.dim() == 2]
    no_decay = [p for p in model.parameters() if p.dim() < 2]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": args.decay}, {"params": no_decay, "weight_decay": 0.0}],
                            lr=args.lr, betas=(0.9, 0.95))

    def schedule(step):
        if step < args.warmup:
            return (step + 1) / args.warmup
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - args.warmup) / (args.steps - args.warmup)))

    lr = torch.optim.lr_scheduler.LambdaLR(opt, schedule)
    best, running, started = math.inf, 0.0, time.monotonic()
    data = batches(train_ids, tok, args.batch, torch.Generator().manual_seed(args.seed))
    model.train()
    for step in range(1, args.steps + 1):
        x, y = next(data)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x, use_cache=False).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits.float(), y.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        lr.step()
        running += loss.item()
        if step % args.every == 0 or step == args.steps:
            n = args.every if step % args.every == 0 else step % args.every
            held = heldout_loss(model, heldout_ids, tok.bos_token_id)
            mark = ""
            if held < best:
                best, mark = held, " *"
                save(model, tok, args.model)
            seconds = time.monotonic() - started
            print(f"step {step:5d}  train {running / n:.4f}  held-out {held:.4f}  {seconds:.0f} s{mark}", flush=True)
            running = 0.0


def save(model, tok, folder):
    rounded = LlamaForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded = rounded.to(torch.bfloat16)
    rounded.generation_config = GenerationConfig(bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id)
    rounded.save_pretrained(folder)
    tok.save_pretrained(folder)


def report(model, tok, heldout, ids):
    """Prints the figures of the README, from the saved (bfloat16) weights computed in float32, and samples."""
    loss = heldout_loss(model, ids, tok.bos_token_id)
    size = len(heldout.encode())
    print(json.dumps({"heldout_bytes": size, "heldout_tokens": len(ids), "nats_per_token": round(loss, 5),
                      "perplexity": round(math.exp(loss), 4),
                      "bits_per_byte": round(loss * len(ids) / math.log(2) / size, 4)}))
    model.eval()
    for temperature in (0.0, 0.8):
        for prompt in ("ROMEO:", "First Citizen:\n", "KING RICHARD III:\nNow"):
            torch.manual_seed(1)
            x = tok(prompt, return_tensors="pt", return_token_type_ids=False)
            sampling = {"temperature": temperature, "top_k": 0} if temperature else {}
            y = model.generate(**x, max_new_tokens=100, do_sample=temperature > 0, pad_token_id=tok.eos_token_id,
                               **sampling)
            print(f"--- temperature {temperature}\n{tok.decode(y[0], skip_special_tokens=True)}")


def main():
    ap = argparse.ArgumentParser(description="Train the demo model on a text of plays.")
    ap.add_argument("text", type=pathlib.Path)
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("--evaluate", action="store_true", help="only evaluate and sample the model in the folder")
    ap.add_argument("--heldout", type=pathlib.Path, help="write the held-out text to this file")
    ap.add_argument("--steps", type=int, default=1600)
    ap.add_argument("--batch", type=int, default=8, help="passages of 512 tokens a step")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--warmup", type=int, default=100)
    ap.add_argument("--dropout", type=float, default=0.3)
    ap.add_argument("--decay", type=float, default=0.3, help="weight decay of the matrices")
    ap.add_argument("--every", type=int, default=100, help="steps between held-out evaluations")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    training, heldout = split_text(args.text.read_text(encoding="utf-8"))
    if args.heldout:
        args.heldout.write_text(heldout, encoding="utf-8")
    if args.evaluate:
        tok = PreTrainedTokenizerFast.from_pretrained(args.model)
    else:
        tok = train_tokenizer(training)
    heldout_ids = tok.encode(heldout, add_special_tokens=False)
    if not args.evaluate:
        train(args, tok, tok.encode(training, add_special_tokens=False), heldout_ids)
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    report(model, tok, heldout, heldout_ids)


if __name__ == "__main__":
    main()
