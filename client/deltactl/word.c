#include "client/deltactl/word.h"

#include "engine/kv.h"

#include <string.h>

bool word_find(const char *text, const char *const *words, size_t *ret)
{
	for (size_t i = 0; words[i]; i++)
		if (strcmp(text, words[i]) == 0) {
			*ret = i;
			return true;
		}
	return false;
}

bool word_kv_type(const char *text, enum kv_type *ret)
{
	size_t i;

	if (!word_find(text, kv_type_names, &i))
		return false;
	*ret = (enum kv_type)i;
	return true;
}
