#include "client/coder.h"

void coder_fail(struct coder *c, int error, const char *field, const char *what)
{
	if (c->error)
		return;
	c->error = reason_set(c->reason, error, "%s: %s", field, what);
}

static void read_bytes(struct coder *c, const char *field, void *ret, size_t n)
{
	const uint8_t *at = c->error ? NULL : cursor_bytes(&c->in, n);

	if (at) {
		memcpy(ret, at, n);
		return;
	}
	memset(ret, 0, n);
	coder_fail(c, -EBADMSG, field, "the message ends inside it");
}

static void write_bytes(struct coder *c, const void *bytes, size_t n)
{
	if (c->error || n == 0)
		return;
	if (c->n <= c->room && n <= c->room - c->n)
		memcpy(c->out + c->n, bytes, n);
	c->n += n;
}

#define CODE_NUMBER(name, type, bits)                                                              \
	void code_##name(struct coder *c, const char *field, type *value)                          \
	{                                                                                          \
		uint##bits##_t raw;                                                                \
                                                                                                   \
		_Static_assert(sizeof(raw) == sizeof(*value), "same width");                       \
		if (c->reading) {                                                                  \
			read_bytes(c, field, &raw, sizeof(raw));                                   \
			raw = le##bits##toh(raw);                                                  \
			memcpy(value, &raw, sizeof(raw));                                          \
		} else {                                                                           \
			memcpy(&raw, value, sizeof(raw));                                          \
			raw = htole##bits(raw);                                                    \
			write_bytes(c, &raw, sizeof(raw));                                         \
		}                                                                                  \
	}
CODE_NUMBER(u32, uint32_t, 32)
CODE_NUMBER(u64, uint64_t, 64)
CODE_NUMBER(f32, float, 32)
CODE_NUMBER(f64, double, 64)
#undef CODE_NUMBER

void code_digest(struct coder *c, const char *field, struct digest *value)
{
	if (c->reading)
		read_bytes(c, field, value->bytes, sizeof(value->bytes));
	else
		write_bytes(c, value->bytes, sizeof(value->bytes));
}

void code_limited(struct coder *c, const char *field, uint32_t *value, uint32_t last)
{
	code_u32(c, field, value);
	if (*value <= last)
		return;
	coder_fail(c, -EBADMSG, field, "not a value that is defined");
	if (c->reading)
		*value = 0;
}

void code_flags(struct coder *c, const char *field, uint32_t *value, uint32_t known)
{
	code_u32(c, field, value);
	if (*value & ~known)
		coder_fail(c, -EBADMSG, field, "has bits that are not defined");
}

void code_str(
	struct coder *c, const char *field, struct proto_str *value, uint32_t least, uint32_t most)
{
	const uint8_t *bytes;

	code_u32(c, field, &value->n);
	if (value->n < least)
		coder_fail(c, -EBADMSG, field, "shorter than allowed");
	if (value->n > most)
		coder_fail(c, -EBADMSG, field, "longer than allowed");
	if (!c->reading) {
		write_bytes(c, value->bytes, value->n);
		return;
	}
	bytes = c->error ? NULL : cursor_bytes(&c->in, value->n);
	if (!bytes) {
		coder_fail(c, -EBADMSG, field, "the message ends inside it");
		value->n = 0;
	}
	value->bytes = (const char *)bytes;
}

void code_name(struct coder *c, const char *field, struct proto_str *value)
{
	code_str(c, field, value, 1, PROTO_MAX_NAME);
	for (uint32_t i = 0; !c->error && i < value->n; i++)
		if ((uint8_t)value->bytes[i] < 0x20 || value->bytes[i] == 0x7f)
			coder_fail(c, -EBADMSG, field, "has a control character");
}

void code_count(
	struct coder *c, const char *field, uint32_t *n, uint32_t most, size_t element_bytes)
{
	code_u32(c, field, n);
	if (*n > most)
		coder_fail(c, -EBADMSG, field, "more elements than allowed");
	else if (c->reading && *n > c->in.left / element_bytes)
		coder_fail(c, -EBADMSG, field, "more elements than the message holds");
	if (c->error && c->reading)
		*n = 0;
}

void code_array(struct coder *c, const char *field, uint32_t *n, uint32_t most,
	size_t element_bytes, void *array, size_t size)
{
	code_count(c, field, n, most, element_bytes);
	if (!c->reading)
		return;
	if (*n > 0) {
		c->owned = calloc(*n, size);
		if (!c->owned) {
			coder_fail(c, -ENOMEM, field, "out of memory");
			*n = 0;
		}
	}
	memcpy(array, &c->owned, sizeof(c->owned));
}

void code_ids(struct coder *c, const char *field, uint32_t *n, uint32_t **ids)
{
	code_array(c, field, n, PROTO_MAX_IDS, 4, ids, sizeof(**ids));
	for (uint32_t i = 0; !c->error && i < *n; i++)
		code_u32(c, field, &(*ids)[i]);
}
