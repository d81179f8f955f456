/*
 * Rotary embedding frequencies.
 *
 *   plain   f(i) = base^(-2i/n)                                    RoFormer, arXiv:2104.09864
 *   linear  f(i) / factor                                          position interpolation, arXiv:2306.15595
 *   llama3  long wavelengths divided by factor, short ones kept, a smooth passage between: Llama 3.1
 *   yarn    NTK by parts with an attention factor                  YaRN, arXiv:2309.00071
 */
#include "model/rope.h"

#include <math.h>

static const double TWO_PI = 6.283185307179586;

static double scaled_llama3(const pr_rope *r, double f) {
    double wavelength = TWO_PI / f;
    double low = r->context_original / (double)r->low_freq, high = r->context_original / (double)r->high_freq;
    if (wavelength < high) return f;
    if (wavelength > low) return f / r->factor;
    double smooth = (r->context_original / wavelength - r->low_freq) / ((double)r->high_freq - r->low_freq);
    return (1 - smooth) * f / r->factor + smooth * f;
}

/* The dimension whose wavelength fits `rotations` times into the original context. */
static double yarn_dimension(const pr_rope *r, double rotations) {
    return r->n_rot * log(r->context_original / (rotations * TWO_PI)) / (2 * log(r->base));
}

static double scaled_yarn(const pr_rope *r, double f, uint32_t i) {
    double low = floor(yarn_dimension(r, r->beta_fast)), high = ceil(yarn_dimension(r, r->beta_slow));
    if (low < 0) low = 0;
    if (high > r->n_rot - 1) high = r->n_rot - 1;
    if (high <= low) high = low + 0.001;
    double ramp = (i - low) / (high - low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return f / r->factor * ramp + f * (1 - ramp);
}

static pr_node_id impossible(pr_graph *g, const pr_rope *rope) {
    if (!g->err.status)
        (void)pr_fail(&g->err, PR_ERR_FORMAT, "rotary embedding of %u dimensions, base %g, factor %g is impossible",
                      rope->n_rot, (double)rope->base, (double)rope->factor);
    return PR_NODE_NONE;
}

pr_node_id pr_rope_freqs(pr_graph *g, const pr_rope *rope, float *table_factor) {
    float freqs[512];
    uint32_t n = rope->n_rot / 2;
    *table_factor = 1;
    if (rope->n_rot % 2 || n == 0 || n > sizeof freqs / sizeof *freqs || !(rope->base > 0) || !(rope->factor > 0))
        return impossible(g, rope);
    for (uint32_t i = 0; i < n; i++) {
        double f = pow(rope->base, -2.0 * i / rope->n_rot);
        switch (rope->scaling) {
        case PR_ROPE_PLAIN: break;
        case PR_ROPE_LINEAR: f /= rope->factor; break;
        case PR_ROPE_LLAMA3: f = scaled_llama3(rope, f); break;
        case PR_ROPE_YARN: f = scaled_yarn(rope, f, i); break;
        }
        freqs[i] = (float)f;
        if (!isfinite(freqs[i])) return impossible(g, rope); /* e.g. yarn with a base of 1 or a negative beta */
    }
    if (rope->scaling == PR_ROPE_YARN) {
        float factor = rope->attention_factor > 0 ? rope->attention_factor : 0.1F * logf(rope->factor) + 1;
        *table_factor = factor * rope->attention_scale;
    }
    return pr_g_const(g, "inv_freq", freqs, n);
}
