/*
 * What becomes of each tensor, and into which units the matrices are cut.
 *
 * Packed is what the model multiplies with or looks rows up in, if its columns are whole blocks. Everything else (norms,
 * biases, odd sizes, tensors that precis does not know) goes over as it is. How many planes a matrix gets follows from
 * what its source can tell apart: nothing is gained by 16 bits of a number that was stored in 8.
 */
#include <stdio.h>
#include <string.h>

#include "compress/pack_impl.h"
#include "store/convert.h"

enum { UNIT_SHARE = 400, UNIT_MIN = 16 << 10, UNIT_MAX = 8 << 20, NAME_BYTES_MAX = 64, ENDING = 4 /* ".p16" */ };

static uint32_t planes_of(pr_dtype type) {
    return type == PR_F32 || type == PR_F16 || type == PR_BF16 ? PR_PLANE_COUNT : PR_PLANE_COUNT - 1;
}

/* ---- names ---------------------------------------------------------------- */

static const struct {
    const char *hf, *gguf;
} whole_names[] = {{"model.embed_tokens.weight", "token_embd.weight"},
                   {"lm_head.weight", "output.weight"},
                   {"model.norm.weight", "output_norm.weight"}},
  layer_names[] = {{"input_layernorm.", "attn_norm."}, {"post_attention_layernorm.", "ffn_norm."},
                   {"self_attn.q_proj.", "attn_q."},   {"self_attn.k_proj.", "attn_k."},
                   {"self_attn.v_proj.", "attn_v."},   {"self_attn.o_proj.", "attn_output."},
                   {"mlp.gate_proj.", "ffn_gate."},    {"mlp.up_proj.", "ffn_up."},
                   {"mlp.down_proj.", "ffn_down."}};

const char *pr__pack_name(const pr_model_file *file, pr_arena *arena, const char *name) {
    static const char layers[] = "model.layers.";
    if (pr_model_file_kind(file) == PR_FILE_GGUF) return name;
    for (size_t i = 0; i < sizeof whole_names / sizeof *whole_names; i++)
        if (strcmp(name, whole_names[i].hf) == 0) return whole_names[i].gguf;
    if (strncmp(name, layers, strlen(layers)) != 0) return NULL;
    const char *number = name + strlen(layers), *rest = strchr(number, '.');
    if (!rest) return NULL;
    for (size_t i = 0; i < sizeof layer_names / sizeof *layer_names; i++) {
        size_t len = strlen(layer_names[i].hf);
        if (strncmp(rest + 1, layer_names[i].hf, len) != 0) continue;
        return pr_arena_printf(arena, "blk.%.*s.%s%s", (int)(rest - number), number, layer_names[i].gguf,
                               rest + 1 + len);
    }
    return NULL;
}

/* The part of a GGUF name behind "blk.N.". */
static const char *kind_of(const char *name) {
    const char *dot = strncmp(name, "blk.", 4) == 0 ? strchr(name + 4, '.') : NULL;
    return dot ? dot + 1 : name;
}

/* ---- matrices ---------------------------------------------------------------- */

static bool can_be_packed(const pr_node *n, const char *name) {
    pr_pack pack;
    pr_loss loss;
    return n->op == PR_OP_WEIGHT && n->mat_rows >= PR_TILE_ROWS && n->cols % PR_BLOCK == 0 && name &&
           strlen(name) + ENDING <= NAME_BYTES_MAX &&
           pr_convert_plan(n->tensor->dtype, true, &pack, &loss, NULL) == PR_OK;
}

static void look_at_uses(const pr_graph *g, pr_node_id id, pr__matrix *m) {
    m->layer = UINT32_MAX;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        for (uint32_t j = 0; j < g->nodes[i].n_in; j++) {
            if (g->nodes[i].in[j] != id) continue;
            if (g->nodes[i].op == PR_OP_EMBED) m->embedding = true;
            if ((pr_node_id)i == g->output) m->head = true;
            if (g->nodes[i].attr.layer < m->layer) m->layer = g->nodes[i].attr.layer;
        }
    }
}

static pr_status list_matrices(const pr_model_file *file, const pr_graph *g, pr__pack_plan *plan, pr_err *err) {
    pr_plane_set *set = &plan->set;
    set->tensors = pr_arena_array(&plan->arena, g->n_nodes, sizeof *set->tensors);
    plan->matrices = pr_arena_array(&plan->arena, g->n_nodes, sizeof *plan->matrices);
    if (!set->tensors || !plan->matrices)
        return pr_fail_nomem(err, "list of matrices", g->n_nodes * sizeof(pr__matrix));
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        const char *name = n->op == PR_OP_WEIGHT ? pr__pack_name(file, &plan->arena, n->tensor->name) : NULL;
        if (!can_be_packed(n, name)) continue;
        pr__matrix *m = &plan->matrices[set->n_tensors];
        *m = (pr__matrix){.source = n->tensor, .kind = kind_of(name)};
        look_at_uses(g, (pr_node_id)i, m);
        pr_plane_tensor *t = &set->tensors[set->n_tensors];
        *t = (pr_plane_tensor){.name = name, .cols = n->cols, .rows = n->mat_rows};
        t->n_planes = planes_of(n->tensor->dtype);
        if (t->n_planes > set->n_planes) set->n_planes = t->n_planes;
        set->n_weights += (uint64_t)t->rows * t->cols;
        set->n_tensors++;
    }
    if (set->n_tensors == 0)
        return pr_fail(err, PR_ERR_UNSUPPORTED,
                       "%s has no matrix that could be packed: none has rows of whole blocks of %d",
                       pr_model_file_path(file), PR_BLOCK);
    return PR_OK;
}

/* ---- units ---------------------------------------------------------------- */

static uint64_t p2_bytes(const pr_plane_tensor *t) {
    return (uint64_t)pr_pack_tiles(t->rows) * pr_plane_tile_bytes(PR_PLANE_P2, t->cols);
}

static uint32_t unit_count(const pr_plane_tensor *t, uint64_t unit_bytes) {
    uint32_t tiles = pr_pack_tiles(t->rows);
    uint64_t n = (p2_bytes(t) + unit_bytes / 2) / unit_bytes;
    return n < 1 ? 1 : n > tiles ? tiles : (uint32_t)n;
}

static pr_status cut_units(pr__pack_plan *plan, uint64_t unit_bytes, pr_err *err) {
    pr_plane_set *set = &plan->set;
    uint64_t total = 0;
    for (uint32_t i = 0; i < set->n_tensors; i++) total += p2_bytes(&set->tensors[i]);
    if (!unit_bytes) {
        unit_bytes = total / UNIT_SHARE;
        if (unit_bytes < UNIT_MIN) unit_bytes = UNIT_MIN;
        if (unit_bytes > UNIT_MAX) unit_bytes = UNIT_MAX;
    }
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        pr_plane_tensor *t = &set->tensors[i];
        t->unit0 = set->n_units;
        t->n_units = unit_count(t, unit_bytes);
        set->n_units += t->n_units;
        set->n_increments += t->n_units * (t->n_planes - 1);
    }
    set->units = pr_arena_array(&plan->arena, set->n_units, sizeof *set->units);
    set->increments = pr_arena_array(&plan->arena, set->n_increments, sizeof *set->increments);
    set->kl = pr_arena_array(&plan->arena, (size_t)set->n_increments + 1, sizeof *set->kl);
    if (!set->units || !set->increments || !set->kl)
        return pr_fail_nomem(err, "units", set->n_units * sizeof *set->units);
    for (uint32_t i = 0; i < set->n_tensors; i++) {
        const pr_plane_tensor *t = &set->tensors[i];
        uint32_t tiles = pr_pack_tiles(t->rows);
        for (uint32_t u = 0; u < t->n_units; u++) {
            uint32_t first = (uint32_t)((uint64_t)u * tiles / t->n_units);
            uint32_t end = (uint32_t)((uint64_t)(u + 1) * tiles / t->n_units);
            set->units[t->unit0 + u] = (pr_plane_piece){.tensor = i, .tile0 = first, .n_tiles = end - first};
        }
    }
    return PR_OK;
}

/* ---- the rest ---------------------------------------------------------------- */

static bool is_packed(const pr__pack_plan *plan, const pr_tensor_info *t) {
    for (uint32_t i = 0; i < plan->set.n_tensors; i++)
        if (plan->matrices[i].source == t) return true;
    return false;
}

static pr_status list_kept(const pr_model_file *file, pr__pack_plan *plan, pr_err *err) {
    size_t n = pr_model_file_n_tensors(file);
    plan->kept = pr_arena_array(&plan->arena, n ? n : 1, sizeof *plan->kept);
    if (!plan->kept) return pr_fail_nomem(err, "list of tensors", n * sizeof *plan->kept);
    for (size_t i = 0; i < n; i++) {
        const pr_tensor_info *t = pr_model_file_tensor(file, i);
        const char *name = is_packed(plan, t) ? NULL : pr__pack_name(file, &plan->arena, t->name);
        if (name) plan->kept[plan->n_kept++] = (pr__kept){t, name};
    }
    return PR_OK;
}

static void number_tensors(pr__pack_plan *plan) {
    size_t next = plan->n_kept;
    for (uint32_t p = 0; p < PR_PLANE_COUNT; p++)
        for (uint32_t i = 0; i < plan->set.n_tensors; i++)
            if (p < plan->set.tensors[i].n_planes) plan->matrices[i].tensor[p] = next++;
}

static pr_status make_losses(pr__pack_plan *plan, pr_err *err) {
    for (uint32_t i = 0; i < plan->set.n_tensors; i++) {
        const pr_plane_tensor *t = &plan->set.tensors[i];
        for (uint32_t p = 0; p < t->n_planes; p++) {
            float *loss = pr_arena_array(&plan->arena, t->rows, sizeof *loss);
            if (!loss) return pr_fail_nomem(err, "losses", t->rows * sizeof *loss);
            plan->matrices[i].loss[p] = loss;
        }
    }
    return PR_OK;
}

pr_status pr__pack_plan_make(const pr_model_file *file, const pr_graph *g, uint64_t unit_bytes, pr__pack_plan *plan,
                             pr_err *err) {
    *plan = (pr__pack_plan){0};
    pr_arena_init(&plan->arena, PR_TAG_FILE);
    pr_status st = list_matrices(file, g, plan, err);
    if (!st) st = cut_units(plan, unit_bytes, err);
    if (!st) st = list_kept(file, plan, err);
    if (!st) st = make_losses(plan, err);
    if (!st) number_tensors(plan);
    if (st) pr__pack_plan_free(plan);
    return st;
}

void pr__pack_plan_free(pr__pack_plan *plan) {
    pr_arena_free(&plan->arena);
    *plan = (pr__pack_plan){0};
}
