#include "daemon/config_value.h"

#include <inttypes.h>
#include <string.h>

struct unit {
	const char *name;
	uint64_t factor;
};

/* Largest first: formatting takes the first that divides. */
static const struct unit size_units[] = {
	{"TiB", UINT64_C(1) << 40},
	{"GiB", UINT64_C(1) << 30},
	{"MiB", UINT64_C(1) << 20},
	{"KiB", UINT64_C(1) << 10},
	{"", 1},
	{NULL, 0},
};

static const struct unit duration_units[] = {
	{"min", 60000},
	{"s", 1000},
	{"ms", 1},
	{NULL, 0},
};

static const struct unit plain_units[] = {
	{"", 1},
	{NULL, 0},
};

static const struct unit *units_of(enum config_type type)
{
	if (type == CONFIG_TYPE_SIZE)
		return size_units;
	if (type == CONFIG_TYPE_DURATION)
		return duration_units;
	return plain_units;
}

static const char *expectation(enum config_type type)
{
	switch (type) {
	case CONFIG_TYPE_COUNT:
		return "a whole number";
	case CONFIG_TYPE_SIZE:
		return "a size such as 64 MiB";
	case CONFIG_TYPE_DURATION:
		return "a duration such as 500 ms, 30 s or 2 min";
	case CONFIG_TYPE_MODE:
		return "an octal mode such as 0660";
	case CONFIG_TYPE_PATH:
	case CONFIG_TYPE_TEXT:
	case CONFIG_TYPE_WORD:
		break;
	}
	return "a value";
}

/* Digits of a base at the beginning of *text, which moves behind them. */
static bool parse_digits(const char **text, uint64_t base, uint64_t *ret)
{
	const char *at = *text;
	uint64_t value = 0;

	while (*at >= '0' && *at < (char)('0' + base)) {
		uint64_t digit = (uint64_t)(*at - '0');

		if (!mul_u64(value, base, &value) || !add_u64(value, digit, &value))
			return false;
		at++;
	}
	if (at == *text)
		return false;
	*text = at;
	*ret = value;
	return true;
}

static bool parse_number(enum config_type type, const char *text, uint64_t *ret)
{
	uint64_t value;

	if (!parse_digits(&text, type == CONFIG_TYPE_MODE ? 8 : 10, &value))
		return false;
	while (*text == ' ')
		text++;
	for (const struct unit *u = units_of(type); u->name; u++)
		if (strcmp(u->name, text) == 0)
			return mul_u64(value, u->factor, ret);
	return false;
}

static int parse_word(
	const struct config_key *key, const char *text, uint64_t *ret, struct reason *reason)
{
	char known[128] = "";
	size_t n = 0;

	for (size_t i = 0; key->words[i]; i++) {
		if (strcmp(key->words[i], text) == 0) {
			*ret = i;
			return 0;
		}
		n += (size_t)snprintf(
			known + n, sizeof(known) - n, "%s%s", i ? ", " : "", key->words[i]);
	}
	return reason_set(reason, -EBADMSG, "%s: \"%s\" is not one of %s", key->name, text, known);
}

int config_value_parse(
	const struct config_key *key, const char *text, uint64_t *ret, struct reason *reason)
{
	char min[CONFIG_VALUE_SIZE], max[CONFIG_VALUE_SIZE];
	uint64_t value;

	if (key->type == CONFIG_TYPE_WORD)
		return parse_word(key, text, ret, reason);
	if (!parse_number(key->type, text, &value))
		return reason_set(reason, -EBADMSG, "%s: \"%s\" is not %s", key->name, text,
			expectation(key->type));
	if (value < key->min || value > key->max) {
		config_value_format(key, key->min, min);
		config_value_format(key, key->max, max);
		return reason_set(reason, -EBADMSG, "%s: %s is out of range, which is %s to %s",
			key->name, text, min, max);
	}
	*ret = value;
	return 0;
}

void config_value_format(
	const struct config_key *key, uint64_t value, char ret[static CONFIG_VALUE_SIZE])
{
	const struct unit *u = units_of(key->type);

	if (key->type == CONFIG_TYPE_WORD) {
		snprintf(ret, CONFIG_VALUE_SIZE, "%s", key->words[value]);
		return;
	}
	if (key->type == CONFIG_TYPE_MODE) {
		snprintf(ret, CONFIG_VALUE_SIZE, "%04" PRIo64, value);
		return;
	}
	/* Zero is divisible by all: it takes the last, the smallest. */
	while (u[1].name && (value == 0 || value % u->factor))
		u++;
	snprintf(ret, CONFIG_VALUE_SIZE, "%" PRIu64 "%s%s", value / u->factor, *u->name ? " " : "",
		u->name);
}
