/*
 * The protocol's bytes. The expectations are bytes written here by hand or kept in the fuzzing
 * corpus, never only the encoder's own output read back.
 */
#include "client/proto.h"
#include "common/cursor.h"
#include "tests/proto_samples.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static uint8_t packet[PROTO_MAX_PACKET];

static size_t encode(const struct proto_message *m)
{
	size_t n = 0;

	assert_int_equal(proto_encode(m, packet, sizeof(packet), &n), 0);
	return n;
}

static int decode(const uint8_t *bytes, size_t n, struct proto_message *ret, struct reason *reason)
{
	struct proto_header h;
	int r = proto_decode_header(bytes, n, &h);

	if (r < 0)
		return r;
	return proto_decode(&h, bytes + PROTO_HEADER_BYTES, n - PROTO_HEADER_BYTES, ret, reason);
}

static void set_length(uint8_t *bytes, size_t n)
{
	uint32_t length = htole32((uint32_t)n);

	memcpy(bytes, &length, sizeof(length));
}

static void every_message_round_trips(void **state)
{
	static uint8_t again[PROTO_MAX_PACKET];
	const struct proto_sample *s;

	(void)state;
	for (size_t i = 0; (s = proto_sample(i)); i++) {
		struct proto_message m;
		size_t n = encode(&s->message), n_again;

		assert_int_equal(decode(packet, n, &m, NULL), 0);
		assert_int_equal(m.op, s->message.op);
		assert_int_equal(m.request, s->message.request);
		assert_int_equal(proto_encode(&m, again, sizeof(again), &n_again), 0);
		assert_int_equal(n_again, n);
		assert_memory_equal(again, packet, n);
		proto_message_done(&m);
	}
}

/* The wire form is a promise: these files were written once. DELTAD_WRITE_CORPUS=1 writes them. */
static void bytes_are_those_of_the_corpus(void **state)
{
	const bool write_them = getenv("DELTAD_WRITE_CORPUS") != NULL;
	const struct proto_sample *s;

	(void)state;
	for (size_t i = 0; (s = proto_sample(i)); i++) {
		static uint8_t kept[PROTO_MAX_PACKET];
		size_t n = encode(&s->message);
		char path[128];
		FILE *f;

		snprintf(path, sizeof(path), "tests/fuzz/corpus/proto/%s", s->label);
		f = fopen(path, write_them ? "we" : "re");
		assert_non_null(f);
		if (write_them)
			assert_int_equal(fwrite(packet, 1, n, f), n);
		else
			assert_int_equal(fread(kept, 1, sizeof(kept), f), n);
		assert_int_equal(fclose(f), 0);
		if (!write_them)
			assert_memory_equal(kept, packet, n);
	}
}

static void token_has_the_bytes_of_the_manual(void **state)
{
	/* clang-format off */
	static const uint8_t expected[] = {
		42, 0, 0, 0,		/* length */
		192, 0,			/* op TOKEN */
		0, 0,			/* flags */
		5, 0, 0, 0, 0, 0, 0, 0,	/* request */
		17, 0, 0, 0,		/* token */
		0, 0, 0, 0xbf,		/* logprob -0.5 */
		2, 0, 0, 0, 'h', 'i',	/* text */
		1, 0, 0, 0,		/* top, one: */
		18, 0, 0, 0,		/* token */
		0, 0, 0, 0xc0,		/* logprob -2 */
	};
	/* clang-format on */
	const struct proto_message m = {
		.op = PROTO_TOKEN,
		.request = 5,
		.token = {.token = 17,
			.logprob = -0.5f,
			.text = {"hi", 2},
			.n_top = 1,
			.top = {{18, -2.0f}}},
	};
	size_t n = encode(&m);

	(void)state;
	assert_int_equal(n, sizeof(expected));
	assert_memory_equal(packet, expected, n);
}

static void fields_arrive_where_they_belong(void **state)
{
	const struct proto_complete *c;
	struct proto_message m;
	size_t n = 0;

	(void)state;
	for (size_t i = 0; n == 0; i++)
		if (strcmp(proto_sample(i)->label, "complete-chat") == 0)
			n = encode(&proto_sample(i)->message);
	assert_int_equal(decode(packet, n, &m, NULL), 0);
	c = &m.complete;
	assert_true(proto_str_equal(c->variant, "tools"));
	assert_int_equal(c->n_messages, 3);
	assert_int_equal(c->messages[1].role, PROTO_ROLE_USER);
	assert_true(proto_str_equal(c->messages[1].text, "gr\xc3\xbc\xc3\x9f dich"));
	assert_int_equal(c->messages[2].text.n, 0);
	proto_message_done(&m);
}

/* Cut anywhere, a message is refused: with the true length in the header or the old one. */
static void cut_messages_are_refused(void **state)
{
	const struct proto_sample *s;

	(void)state;
	for (size_t i = 0; (s = proto_sample(i)); i++) {
		size_t n = encode(&s->message);

		for (size_t cut = 0; cut < n; cut++) {
			/* A copy of exactly that size, so that sanitizers see a byte too far. */
			uint8_t *bytes = malloc(cut + 1);
			struct reason reason = {0};
			struct proto_message m;

			memcpy(bytes, packet, cut);
			assert_int_equal(decode(bytes, cut, &m, NULL), -EBADMSG);
			if (cut >= PROTO_HEADER_BYTES) {
				set_length(bytes, cut);
				assert_int_equal(decode(bytes, cut, &m, &reason), -EBADMSG);
				assert_true(reason.text[0] != '\0');
			}
			free(bytes);
		}
	}
}

static void trailing_bytes_are_refused(void **state)
{
	const struct proto_sample *s;

	(void)state;
	for (size_t i = 0; (s = proto_sample(i)); i++) {
		size_t n = encode(&s->message);
		struct proto_message m;

		packet[n] = 0;
		set_length(packet, n + 1);
		assert_int_equal(decode(packet, n + 1, &m, NULL), -EBADMSG);
	}
}

/* Each aligned u32 of each message is overwritten by lengths that lie; nothing may be read or
 * allocated past the packet, whatever the result. */
static void hostile_numbers_do_no_harm(void **state)
{
	static const uint32_t lies[] = {0xffffffff, 0x80000000, 0x7fffffff, 0x10000, 0x1000001};
	const struct proto_sample *s;

	(void)state;
	for (size_t i = 0; (s = proto_sample(i)); i++) {
		size_t n = encode(&s->message);

		for (size_t at = PROTO_HEADER_BYTES; at + 4 <= n; at++)
			for (size_t l = 0; l < array_len(lies); l++) {
				uint8_t *bytes = malloc(n);
				struct proto_message m;
				int r;

				memcpy(bytes, packet, n);
				memcpy(bytes + at, &lies[l], 4);
				r = decode(bytes, n, &m, NULL);
				assert_true(r == 0 || r == -EBADMSG || r == -EOPNOTSUPP);
				if (r == 0)
					proto_message_done(&m);
				free(bytes);
			}
	}
}

static void headers_are_checked(void **state)
{
	struct proto_header h;
	size_t n = encode(&(struct proto_message){.op = PROTO_MODELS, .request = 3});
	static uint8_t big[PROTO_MAX_PACKET + 1];

	(void)state;
	assert_int_equal(n, PROTO_HEADER_BYTES);
	assert_int_equal(proto_decode_header(packet, n, &h), 0);
	assert_int_equal(h.op, PROTO_MODELS);
	assert_int_equal(h.request, 3);
	for (size_t short_n = 0; short_n < n; short_n++)
		assert_int_equal(proto_decode_header(packet, short_n, &h), -EBADMSG);
	assert_int_equal(proto_decode_header(packet, n + 1, &h), -EBADMSG);
	packet[6] = 2; /* an unknown flag */
	assert_int_equal(proto_decode_header(packet, n, &h), -EBADMSG);
	packet[6] = PROTO_FLAG_MEMFD;
	assert_int_equal(proto_decode_header(packet, n, &h), 0);
	set_length(packet, n + 4);
	assert_int_equal(proto_decode_header(packet, n + 4, &h), -EBADMSG);
	set_length(packet, n);
	packet[6] = 0;
	memset(packet + 8, 0, 8); /* request 0 */
	assert_int_equal(proto_decode_header(packet, n, &h), -EBADMSG);
	set_length(big, sizeof(big));
	big[8] = 1;
	assert_int_equal(proto_decode_header(big, sizeof(big), &h), -EBADMSG);
}

static void unknown_ops_and_reserved_fields_are_not_supported(void **state)
{
	static const uint16_t unknown[] = {0, 7, 11, 31, 42, 128, 131, 168, 191, 196, 65535};
	size_t n = encode(&(struct proto_message){
		.op = PROTO_COMPLETE, .request = 1, .complete = {.variant = {"m", 1}}});
	const size_t kv_type = n - 4 - 4 - 4 - 4; /* before session, prompt kind, empty text */
	struct proto_message m;

	(void)state;
	assert_int_equal(decode(packet, n, &m, NULL), 0);
	packet[kv_type] = 1;
	assert_int_equal(decode(packet, n, &m, NULL), -EOPNOTSUPP);
	packet[kv_type] = 0;
	memmove(packet + kv_type + 9, packet + kv_type + 8, n - kv_type - 8);
	packet[kv_type + 4] = 1; /* a session of one byte */
	packet[kv_type + 8] = 's';
	set_length(packet, n + 1);
	assert_int_equal(decode(packet, n + 1, &m, NULL), -EOPNOTSUPP);
	for (size_t i = 0; i < array_len(unknown); i++) {
		struct proto_header h = {.length = 16, .op = unknown[i], .request = 1};

		assert_int_equal(proto_decode(&h, packet, 0, &m, NULL), -EOPNOTSUPP);
	}
}

static void names_are_checked(void **state)
{
	static const char *const bad[] = {"", "a\nb", "\x1b[2J", "\x7f"};
	char longest[PROTO_MAX_NAME + 2];
	struct proto_message m = {.op = PROTO_LOAD, .request = 1};
	size_t n;

	(void)state;
	for (size_t i = 0; i < array_len(bad); i++) {
		m.name.name = proto_str(bad[i]);
		assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
		set_length(packet, PROTO_HEADER_BYTES + 4 + strlen(bad[i]));
		packet[4] = PROTO_LOAD;
		packet[6] = 0;
		packet[8] = 1;
		packet[PROTO_HEADER_BYTES] = (uint8_t)strlen(bad[i]);
		memset(packet + PROTO_HEADER_BYTES + 1, 0, 3);
		memcpy(packet + PROTO_HEADER_BYTES + 4, bad[i], strlen(bad[i]));
		assert_int_equal(decode(packet, PROTO_HEADER_BYTES + 4 + strlen(bad[i]), &m, NULL),
			-EBADMSG);
		m = (struct proto_message){.op = PROTO_LOAD, .request = 1};
	}
	memset(longest, 'x', sizeof(longest));
	m.name.name = (struct proto_str){longest, PROTO_MAX_NAME};
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), 0);
	m.name.name.n++;
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
}

static void limits_hold_for_writers(void **state)
{
	static uint32_t many[PROTO_MAX_IDS + 1];
	struct proto_message m = {.op = PROTO_TOKENIZE_REPLY, .request = 1};
	size_t n;

	(void)state;
	m.ids = (struct proto_ids){PROTO_MAX_IDS, many};
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -ENOBUFS);
	assert_int_equal(n, PROTO_HEADER_BYTES + 4 + 4 * (size_t)PROTO_MAX_IDS);
	m.ids.n++;
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
	m = (struct proto_message){.op = PROTO_COMPLETE, .request = 1};
	m.complete.variant = proto_str("m");
	m.complete.n_stops = PROTO_MAX_STOPS + 1;
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
	m.complete.n_stops = 0;
	m.complete.sampling.n_logprobs = PROTO_MAX_LOGPROBS + 1;
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
	m.complete.sampling.n_logprobs = 0;
	m.complete.flags = 1 << 3;
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
}

static void small_rooms_are_not_overrun(void **state)
{
	const struct proto_sample *s;

	(void)state;
	for (size_t i = 0; (s = proto_sample(i)); i++) {
		size_t n = encode(&s->message), n_needed;

		for (size_t room = 0; room < n; room++) {
			uint8_t *bytes = malloc(room + 1);

			assert_int_equal(
				proto_encode(&s->message, bytes, room, &n_needed), -ENOBUFS);
			assert_int_equal(n_needed, n);
			free(bytes);
		}
	}
}

static void done_and_status_must_agree(void **state)
{
	struct proto_message m = {.op = PROTO_DONE, .request = 1};
	size_t n;

	(void)state;
	m.done.status = PROTO_STATUS_BUSY;
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
	m.done.finish = PROTO_FINISH_ERROR;
	n = encode(&m);
	assert_int_equal(decode(packet, n, &m, NULL), 0);
	packet[PROTO_HEADER_BYTES + 4] = 0;
	assert_int_equal(decode(packet, n, &m, NULL), -EBADMSG);
	m = (struct proto_message){.op = PROTO_ERROR, .request = 1};
	assert_int_equal(proto_encode(&m, packet, sizeof(packet), &n), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_message_round_trips),
		cmocka_unit_test(bytes_are_those_of_the_corpus),
		cmocka_unit_test(token_has_the_bytes_of_the_manual),
		cmocka_unit_test(fields_arrive_where_they_belong),
		cmocka_unit_test(cut_messages_are_refused),
		cmocka_unit_test(trailing_bytes_are_refused),
		cmocka_unit_test(hostile_numbers_do_no_harm),
		cmocka_unit_test(headers_are_checked),
		cmocka_unit_test(unknown_ops_and_reserved_fields_are_not_supported),
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test(limits_hold_for_writers),
		cmocka_unit_test(small_rooms_are_not_overrun),
		cmocka_unit_test(done_and_status_must_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
