#include "common/digest.h"

/* The functions of one digest, and not those of any: these take no memory, so they cannot fail. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

struct digest_state {
	SHA256_CTX context;
};

struct digest_state *digest_new(void)
{
	struct digest_state *s = calloc(1, sizeof(*s));

	if (s)
		SHA256_Init(&s->context);
	return s;
}

void digest_add(struct digest_state *s, const void *bytes, size_t n)
{
	SHA256_Update(&s->context, bytes, n);
}

struct digest digest_finish(struct digest_state *s)
{
	struct digest d;

	SHA256_Final(d.bytes, &s->context);
	digest_free(s);
	return d;
}

struct digest_state *digest_free(struct digest_state *s)
{
	free(s);
	return NULL;
}

struct digest digest_of(const void *bytes, size_t n)
{
	struct digest_state s;
	struct digest d;

	SHA256_Init(&s.context);
	SHA256_Update(&s.context, bytes, n);
	SHA256_Final(d.bytes, &s.context);
	return d;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
	return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

void digest_hex(const struct digest *d, char ret_hex[static DIGEST_HEX_SIZE])
{
	for (size_t i = 0; i < sizeof(d->bytes); i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", d->bytes[i]);
}
