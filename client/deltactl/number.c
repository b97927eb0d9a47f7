#include "client/deltactl/number.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool number_u64(const char *text, uint64_t last, uint64_t *ret)
{
	unsigned long long value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || value > last)
		return false;
	*ret = value;
	return true;
}

bool number_u32(const char *text, uint32_t *ret)
{
	uint64_t value;

	if (!number_u64(text, UINT32_MAX, &value))
		return false;
	*ret = (uint32_t)value;
	return true;
}

bool number_range(const char *text, uint64_t *ret_first, uint64_t *ret_end)
{
	const char *colon = strchr(text, ':');
	uint64_t first, end = UINT64_MAX;
	char number[32];

	if (!colon || (size_t)(colon - text) >= sizeof(number))
		return false;
	snprintf(number, sizeof(number), "%.*s", (int)(colon - text), text);
	if (!number_u64(number, UINT64_MAX, &first))
		return false;
	if (colon[1] != '\0' && !number_u64(colon + 1, UINT64_MAX, &end))
		return false;
	if (first >= end)
		return false;
	*ret_first = first;
	*ret_end = end;
	return true;
}

bool number_f32(const char *text, float *ret)
{
	char *end;
	float value = strtof(text, &end);

	if (end == text || *end != '\0' || isnan(value))
		return false;
	*ret = value;
	return true;
}

bool number_bytes(const char *text, uint64_t *ret)
{
	static const char units[] = "KMG";
	size_t n = strlen(text);
	const char *unit = n ? strchr(units, text[n - 1]) : NULL;
	unsigned int shift = unit ? 10 * (unsigned int)(unit - units + 1) : 0;
	char number[32];
	uint64_t value;

	if (n >= sizeof(number))
		return false;
	snprintf(number, sizeof(number), "%.*s", (int)(n - (unit != NULL)), text);
	if (!number_u64(number, UINT64_MAX >> shift, &value))
		return false;
	*ret = value << shift;
	return true;
}

bool number_list(const char *text, uint32_t last, struct number_list *ret)
{
	struct number_list list = {0};
	size_t length;

	do {
		char number[32];
		uint64_t value;

		length = strcspn(text, ",");
		if (length >= sizeof(number) || list.n == NUMBER_LIST_MAX)
			return false;
		snprintf(number, sizeof(number), "%.*s", (int)length, text);
		if (!number_u64(number, last, &value))
			return false;
		list.numbers[list.n++] = (uint32_t)value;
		text += length;
	} while (*text++ == ',');
	*ret = list;
	return true;
}
