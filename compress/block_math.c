#include "compress/block_math.h"

#include "compress/exponential.h"

#include <math.h>
#include <string.h>

static double norm_scale(const float *x, size_t n, float eps)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)x[i] * (double)x[i];
	return 1 / sqrt(sum / (double)n + (double)eps);
}

void rms_norm(float *y, const float *x, const float *weight, size_t n, float eps)
{
	float scale = (float)norm_scale(x, n, eps);

	for (size_t i = 0; i < n; i++)
		y[i] = x[i] * scale * weight[i];
}

void rms_norm_back(const struct rms_norm_back *b, bool add, float *dx)
{
	double scale = norm_scale(b->x, b->n, b->eps);
	double along = 0;
	float s = (float)scale, pull;

	for (size_t i = 0; i < b->n; i++)
		along += (double)(b->dy[i] * b->weight[i]) * (double)b->x[i];
	pull = (float)(along * scale * scale * scale / (double)b->n);
	for (size_t i = 0; b->dweight && i < b->n; i++)
		b->dweight[i] += (double)(b->dy[i] * b->x[i]) * scale;
	for (size_t i = 0; i < b->n; i++) {
		float d = b->dy[i] * b->weight[i] * s - b->x[i] * pull;

		dx[i] = add ? dx[i] + d : d;
	}
}

void rotate(float *x, const float *cosines, const float *sines, size_t n)
{
	for (size_t i = 0; i < n / 2; i++) {
		float a = x[i], c = x[i + n / 2];

		x[i] = a * cosines[i] - c * sines[i];
		x[i + n / 2] = c * cosines[i] + a * sines[i];
	}
}

void rotate_back(float *x, const float *cosines, const float *sines, size_t n)
{
	for (size_t i = 0; i < n / 2; i++) {
		float a = x[i], c = x[i + n / 2];

		x[i] = a * cosines[i] + c * sines[i];
		x[i + n / 2] = c * cosines[i] - a * sines[i];
	}
}

static void clear_outside(const struct softmax_range *r, float *row)
{
	memset(row, 0, r->first * sizeof(*row));
	memset(row + r->end, 0, (r->n - r->end) * sizeof(*row));
}

void softmax(const struct softmax_range *r, float *scores)
{
	float *seen = scores + r->first, top = exponential_top(seen, r->scale, r->end - r->first);
	float share = (float)(1 / exponential_sum(seen, seen, r->scale, top, r->end - r->first));

	for (size_t i = r->first; i < r->end; i++)
		scores[i] *= share;
	clear_outside(r, scores);
}

void softmax_back(const struct softmax_range *r, const float *p, float *dp)
{
	double mean = 0;

	for (size_t i = r->first; i < r->end; i++)
		mean += (double)p[i] * (double)dp[i];
	for (size_t i = r->first; i < r->end; i++)
		dp[i] = p[i] * (dp[i] - (float)mean) * r->scale;
	clear_outside(r, dp);
}

void sigmoid(float *ret, const float *x, size_t n)
{
	exponential_sum(ret, x, -1, 0, n);
	for (size_t i = 0; i < n; i++)
		ret[i] = 1 / (1 + ret[i]);
}
