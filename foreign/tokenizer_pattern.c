#include "foreign/tokenizer_pattern.h"

int pattern_translate(const char *pattern, size_t n, struct text *out, struct reason *reason)
{
	int brackets = 0, r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		char c = pattern[i], next = i + 1 < n ? pattern[i + 1] : '\0';

		if (c == '\\') {
			if (next == 'h' || next == 'H' || next == 'R' || next == 'K' ||
				next == 'G' || next == 'y' || next == 'Y')
				return reason_set(reason, -EOPNOTSUPP,
					"split pattern: \\%c is not implemented", next);
			if (next == 's' || next == 'S')
				r = text_append(out,
					next == 's' ? "\\p{White_Space}" : "\\P{White_Space}", 15);
			else
				r = text_append(out, pattern + i, i + 1 < n ? 2 : 1);
			i++;
			continue;
		}
		if (!brackets && (c == '^' || c == '$'))
			return reason_set(reason, -EOPNOTSUPP,
				"split pattern: the anchor %c is not implemented", c);
		if (brackets && ((c == '&' && next == '&') || (c == '[' && next != ':')))
			return reason_set(reason, -EOPNOTSUPP,
				"split pattern: operations on sets are not implemented");
		if (c == '[')
			brackets++;
		if (brackets && c == '[' && next == '^')
			r = text_append(out, pattern + i++, 1);
		c = pattern[i];
		if (brackets && c == ']')
			brackets--;
		if (r == 0)
			r = text_append(out, &c, 1);
	}
	return r;
}

int pattern_quote(const char *literal, size_t n, struct text *out)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		if (strchr("\\^$.[]|()?*+{}-#", literal[i]) && literal[i])
			r = text_append(out, "\\", 1);
		if (r == 0)
			r = text_append(out, &literal[i], 1);
	}
	return r;
}
