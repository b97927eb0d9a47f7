#include "common/digest.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

struct digest_state {
	EVP_MD_CTX *context;
};

struct digest_state *digest_new(void)
{
	struct digest_state *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->context = EVP_MD_CTX_new();
	if (!s->context || EVP_DigestInit_ex(s->context, EVP_sha256(), NULL) != 1)
		return digest_free(s);
	return s;
}

void digest_add(struct digest_state *s, const void *bytes, size_t n)
{
	int added = EVP_DigestUpdate(s->context, bytes, n);

	assert(added == 1);
	(void)added;
}

struct digest digest_finish(struct digest_state *s)
{
	struct digest d;
	int finished = EVP_DigestFinal_ex(s->context, d.bytes, NULL);

	assert(finished == 1);
	(void)finished;
	digest_free(s);
	return d;
}

struct digest_state *digest_free(struct digest_state *s)
{
	if (s)
		EVP_MD_CTX_free(s->context);
	free(s);
	return NULL;
}

struct digest digest_of(const void *bytes, size_t n)
{
	struct digest d;
	int computed = EVP_Digest(bytes, n, d.bytes, NULL, EVP_sha256(), NULL);

	assert(computed == 1);
	(void)computed;
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
