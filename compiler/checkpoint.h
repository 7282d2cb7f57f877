/* checkpoint.h - a Hugging Face checkpoint as it is: a folder with config.json and safetensors weights, read-only.
 *
 * Files read: config.json (required), generation_config.json and quantize_config.json (optional), and either
 * model.safetensors or model.safetensors.index.json with the shards it names. Weights are memory-mapped: opening a
 * checkpoint reads the headers only. Everything in the files is untrusted; the first thing wrong ends the opening with
 * a message that names file, tensor and what was expected. A file must not be cut short by others while it is mapped.
 */
#ifndef BLADE_CHECKPOINT_H
#define BLADE_CHECKPOINT_H

#include "json.h"
#include "safetensors.h"

typedef struct Checkpoint Checkpoint;

/* Opens a folder: a download, or an entry of the Hugging Face cache (models--ORG--NAME, resolved through refs/main to
 * its snapshot; its links are followed). NULL on failure. */
Checkpoint *ckpt_open(const char *dir, Err *err);

/* Opens the configuration alone, without weights (ckpt_count is 0): a folder, or the path of a config.json itself,
 * which is then the only file read. */
Checkpoint *ckpt_open_config(const char *dir_or_file, Err *err);

void ckpt_close(Checkpoint *c); /* NULL is allowed; tensors, names and trees die with it */

const char *ckpt_dir(const Checkpoint *c); /* the folder that the files are in, for tokenizer.json and the like */

/* The trees belong to the checkpoint. A quantize_config.json (as GPTQ tools wrote it) appears in the configuration as
 * "quantization_config", with "quant_method": "gptq" unless it says otherwise, when config.json has none. */
json_t *ckpt_config(const Checkpoint *c);
json_t *ckpt_generation_config(const Checkpoint *c); /* NULL when there is no such file */

/* An integer of config.json; as json_get_int, with the path of the file in the message. */
bool ckpt_config_int(const Checkpoint *c, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out,
                     Err *err);

/* The type that the model computes in by its own word: "dtype" or "torch_dtype" of config.json; without one, the type
 * of the first floating-point tensor by name; without one, f32. false when the name is unknown. */
bool ckpt_dtype(const Checkpoint *c, DType *type, Err *err);

/* The tensors of all files, sorted by name (strcmp). ckpt_find gives NULL when there is no such tensor. */
size_t ckpt_count(const Checkpoint *c);
const Tensor *ckpt_at(const Checkpoint *c, size_t i);
const Tensor *ckpt_find(const Checkpoint *c, const char *name);

/* Group indices of a quantized layer (s32, "...g_idx"): plans depend on which layers share them. */
bool ckpt_is_group_index(const Tensor *t);

/* Identifies what a pack is built for: a hash over the configuration (however it is formatted) and the names, types and
 * shapes of all tensors, but not their data, that of group indices excepted. */
uint64_t ckpt_fingerprint(const Checkpoint *c);

/* Asks the system to begin reading all weights into memory; returns at once, a hint only. */
void ckpt_prefetch(const Checkpoint *c);

#endif
