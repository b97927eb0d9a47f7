#include "client/deltactl/word.h"

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
