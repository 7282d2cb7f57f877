/* sizes.h - the run-time sizes that kernels, plans and the runtime share, one row each: SIZE(id, name, meaning).
 * Kernels receive them as one array of int64, indexed by these ids, so the order is part of the pack format. */
#ifndef SIZE
#error "define SIZE(id, name, meaning) before including sizes.h"
#endif

SIZE(TOKENS, "tokens", "rows of this step: decode tokens first, then prompt pieces")
SIZE(SEQS, "seqs", "sequences of this step, rows of the block table")
SIZE(OUTPUTS, "outputs", "rows whose logits are wanted")
SIZE(DECODE_TILES, "decode_tiles", "attention tiles of one token")
SIZE(PREFILL_TILES, "prefill_tiles", "attention tiles of several tokens of one sequence")
SIZE(TABLE_WIDTH, "table_width", "columns of the block table: pages a sequence may have")
SIZE(KV_PAGES, "kv_pages", "pages of the KV cache, all sequences together")
SIZE(ROWS, "rows", "rows of a weight transform or a test operator")
SIZE(EXTRA, "extra", "entries of the sparse list of logit adjustments")
SIZE(HIDDENS, "hiddens", "rows whose hidden state is wanted")

#undef SIZE
