/*
 * Expressions by recursive descent, one function for each level of binding.
 */
#include "foreign/jinja_parser.h"

int parser_name(struct parser *p, enum jinja_kind kind, struct jinja_node **ret)
{
	int r;

	if (p->token.kind != TOKEN_NAME)
		return parser_malformed(p, "a name");
	r = parser_node(p, kind, ret);
	if (r == 0)
		r = parser_copy(p, *ret, p->token.s, p->token.n);
	return r < 0 ? r : parser_advance(p);
}

static int parse_argument(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node *value;
	int r = parser_expression(p, &value);

	if (r < 0)
		return r;
	if (value->kind == JINJA_NAME && parser_at_operator(p, "=")) {
		value->kind = JINJA_ARGUMENT;
		r = parser_advance(p);
		if (r == 0)
			r = parser_expression(p, &value->a);
	}
	*ret = value;
	return r;
}

int parser_arguments(struct parser *p, const char *closing, struct jinja_node **ret)
{
	struct jinja_node **tail = ret;

	*ret = NULL;
	while (!parser_at_operator(p, closing)) {
		int r = parse_argument(p, tail);

		if (r < 0)
			return r;
		tail = &(*tail)->next;
		if (!parser_at_operator(p, ","))
			break;
		r = parser_advance(p);
		if (r < 0)
			return r;
	}
	return parser_expect(p, closing);
}

static int parse_dict(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node **tail;
	int r = parser_node(p, JINJA_DICT, ret);

	if (r == 0)
		r = parser_advance_in(p, true);
	if (r < 0)
		return r;
	tail = &(*ret)->a;
	while (!parser_at_operator(p, "}")) {
		r = parser_node(p, JINJA_ARGUMENT, tail);
		if (r == 0)
			r = parser_expression(p, &(*tail)->d);
		if (r == 0)
			r = parser_expect(p, ":");
		if (r == 0)
			r = parser_expression(p, &(*tail)->a);
		if (r == 0 && parser_at_operator(p, ","))
			r = parser_advance_in(p, true);
		else if (r == 0 && !parser_at_operator(p, "}"))
			r = parser_malformed(p, "a comma or }");
		if (r < 0)
			return r;
		tail = &(*tail)->next;
	}
	return parser_advance(p);
}

static int parse_string(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node *copy;
	int r = parser_node(p, JINJA_LITERAL, ret);

	if (r == 0)
		r = parser_copy(p, *ret, p->token.s, p->token.n);
	if (r == 0)
		r = parser_node(p, JINJA_LITERAL, &copy);
	if (r < 0)
		return r;
	*copy = **ret;
	copy->next = p->j->literals;
	p->j->literals = copy;
	return parser_advance(p);
}

static int parse_constant(
	struct parser *p, enum jinja_literal_kind kind, int64_t value, struct jinja_node **ret)
{
	int r = parser_node(p, JINJA_LITERAL, ret);

	if (r < 0)
		return r;
	(*ret)->literal = kind;
	(*ret)->integer = value;
	return parser_advance(p);
}

/* Round brackets: an expression, or with a comma a list. */
static int parse_group(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node *first;
	int r = parser_advance(p);

	if (r == 0 && !parser_at_operator(p, ")"))
		r = parser_expression(p, &first);
	else
		first = NULL;
	if (r < 0)
		return r;
	if (first && parser_at_operator(p, ")")) {
		*ret = first;
		return parser_advance(p);
	}
	r = parser_node(p, JINJA_LIST, ret);
	if (r == 0 && first)
		r = parser_expect(p, ",");
	if (r == 0)
		r = parser_arguments(p, ")", first ? &first->next : &(*ret)->a);
	if (first)
		(*ret)->a = first;
	return r;
}

static int parse_primary(struct parser *p, struct jinja_node **ret)
{
	int r;

	if (p->token.kind == TOKEN_STRING)
		return parse_string(p, ret);
	if (p->token.kind == TOKEN_INT)
		return parse_constant(p, JINJA_LITERAL_INT, p->token.integer, ret);
	if (parser_at_name(p, "true") || parser_at_name(p, "True"))
		return parse_constant(p, JINJA_LITERAL_BOOL, 1, ret);
	if (parser_at_name(p, "false") || parser_at_name(p, "False"))
		return parse_constant(p, JINJA_LITERAL_BOOL, 0, ret);
	if (parser_at_name(p, "none") || parser_at_name(p, "None"))
		return parse_constant(p, JINJA_LITERAL_NONE, 0, ret);
	if (p->token.kind == TOKEN_NAME)
		return parser_name(p, JINJA_NAME, ret);
	if (parser_at_operator(p, "("))
		return parse_group(p, ret);
	if (parser_at_operator(p, "{"))
		return parse_dict(p, ret);
	if (!parser_at_operator(p, "["))
		return parser_malformed(p, "a value");
	r = parser_node(p, JINJA_LIST, ret);
	if (r == 0)
		r = parser_advance(p);
	return r < 0 ? r : parser_arguments(p, "]", &(*ret)->a);
}

/* After "[": an index, or the parts of a slice. */
static int parse_subscript(struct parser *p, struct jinja_node *object, struct jinja_node **ret)
{
	struct jinja_node *node;
	struct jinja_node **parts[3];
	int r = parser_node(p, JINJA_INDEX, &node);

	if (r < 0)
		return r;
	parts[0] = &node->b;
	parts[1] = &node->c;
	parts[2] = &node->d;
	node->a = object;
	for (size_t i = 0; r == 0 && i < 3; i++) {
		if (!parser_at_operator(p, ":") && !parser_at_operator(p, "]"))
			r = parser_expression(p, parts[i]);
		if (r < 0 || !parser_at_operator(p, ":"))
			break;
		node->kind = JINJA_SLICE;
		r = parser_advance(p);
	}
	if (r == 0 && node->kind == JINJA_INDEX && !node->b)
		r = parser_malformed(p, "an index");
	*ret = node;
	return r < 0 ? r : parser_expect(p, "]");
}

static int parse_attribute(struct parser *p, struct jinja_node *object, struct jinja_node **ret)
{
	int r = parser_name(p, JINJA_ATTRIBUTE, ret);

	if (r == 0)
		(*ret)->a = object;
	return r;
}

/* A filter, or a test with its own rule for a single argument without brackets. */
static int parse_filter(
	struct parser *p, enum jinja_kind kind, struct jinja_node *object, struct jinja_node **ret)
{
	int r = parser_name(p, kind, ret);

	if (r < 0)
		return r;
	(*ret)->a = object;
	if (parser_at_operator(p, "(")) {
		r = parser_advance(p);
		return r < 0 ? r : parser_arguments(p, ")", &(*ret)->b);
	}
	if (kind == JINJA_TEST && (p->token.kind == TOKEN_STRING || p->token.kind == TOKEN_INT))
		return parse_primary(p, &(*ret)->b);
	return 0;
}

static int parse_test(struct parser *p, struct jinja_node *object, struct jinja_node **ret)
{
	struct jinja_node *inverted = NULL;
	int r = 0;

	if (parser_at_name(p, "not")) {
		r = parser_node(p, JINJA_NOT, &inverted);
		if (r == 0)
			r = parser_advance(p);
	}
	if (r == 0)
		r = parse_filter(p, JINJA_TEST, object, ret);
	if (r == 0 && inverted) {
		inverted->a = *ret;
		*ret = inverted;
	}
	return r;
}

static int parse_call(struct parser *p, struct jinja_node *callee, struct jinja_node **ret)
{
	int r = parser_node(p, JINJA_CALL, ret);

	if (r < 0)
		return r;
	(*ret)->a = callee;
	return parser_arguments(p, ")", &(*ret)->b);
}

static int parse_postfix(struct parser *p, struct jinja_node **ret)
{
	int links = 0, r = parse_primary(p, ret);

	while (r == 0) {
		struct jinja_node *object = *ret;
		bool dot = parser_at_operator(p, "."), index = parser_at_operator(p, "[");
		bool call = parser_at_operator(p, "("), filter = parser_at_operator(p, "|");

		if (!dot && !index && !call && !filter && !parser_at_name(p, "is"))
			break;
		/* Each link is a level of the tree. */
		if (++links > JINJA_MAX_DEPTH)
			return parser_refused(p, "an expression this long");
		r = parser_advance(p);
		if (r < 0)
			break;
		if (dot)
			r = parse_attribute(p, object, ret);
		else if (index)
			r = parse_subscript(p, object, ret);
		else if (call)
			r = parse_call(p, object, ret);
		else if (filter)
			r = parse_filter(p, JINJA_FILTER, object, ret);
		else
			r = parse_test(p, object, ret);
	}
	return r;
}

static int parse_unary(struct parser *p, struct jinja_node **ret)
{
	int r;

	if (!parser_at_operator(p, "-"))
		return parse_postfix(p, ret);
	r = parser_node(p, JINJA_NEGATE, ret);
	if (r == 0)
		r = parser_advance(p);
	return r < 0 ? r : parse_postfix(p, &(*ret)->a);
}

/* Operators from the loosest to the tightest. */
static const struct {
	const char *s;
	enum jinja_operator op;
	int level;
} binary_operators[] = {
	{"==", JINJA_EQUAL, 0},
	{"!=", JINJA_UNEQUAL, 0},
	{"<", JINJA_LESS, 0},
	{"<=", JINJA_LESS_EQUAL, 0},
	{">", JINJA_GREATER, 0},
	{">=", JINJA_GREATER_EQUAL, 0},
	{"+", JINJA_ADD, 1},
	{"-", JINJA_SUBTRACT, 1},
	{"~", JINJA_CONCAT, 2},
	{"*", JINJA_MULTIPLY, 3},
	{"//", JINJA_DIVIDE, 3},
	{"%", JINJA_MODULO, 3},
};
#define N_LEVELS 4

/* The operator of this level that comes next; moves past it. */
static int take_operator(struct parser *p, int level, bool *ret_found, enum jinja_operator *ret)
{
	int r;

	*ret_found = false;
	if (level == 0 && (parser_at_name(p, "in") || parser_at_name(p, "not"))) {
		*ret = parser_at_name(p, "in") ? JINJA_IN : JINJA_NOT_IN;
		*ret_found = true;
		if (*ret == JINJA_IN)
			return parser_advance(p);
		r = parser_advance(p);
		if (r < 0)
			return r;
		return parser_at_name(p, "in") ? parser_advance(p) : parser_malformed(p, "in");
	}
	for (size_t i = 0; i < array_len(binary_operators); i++)
		if (binary_operators[i].level == level &&
			parser_at_operator(p, binary_operators[i].s)) {
			*ret = binary_operators[i].op;
			*ret_found = true;
			return parser_advance(p);
		}
	return 0;
}

static int parse_binary(struct parser *p, int level, struct jinja_node **ret)
{
	int links = 0, r;

	if (level == N_LEVELS)
		return parse_unary(p, ret);
	r = parse_binary(p, level + 1, ret);
	while (r == 0) {
		struct jinja_node *node;
		enum jinja_operator op;
		bool found;

		r = take_operator(p, level, &found, &op);
		if (r < 0 || !found)
			break;
		if (++links > JINJA_MAX_DEPTH)
			return parser_refused(p, "an expression this long");
		r = parser_node(p, JINJA_BINARY, &node);
		if (r < 0)
			break;
		node->op = op;
		node->a = *ret;
		r = parse_binary(p, level + 1, &node->b);
		*ret = node;
	}
	return r;
}

static int parse_not(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node **slot = ret;

	for (int n = 0; parser_at_name(p, "not"); n++) {
		int r = n < JINJA_MAX_DEPTH ? parser_node(p, JINJA_NOT, slot)
					    : parser_refused(p, "not");

		if (r == 0)
			r = parser_advance(p);
		if (r < 0)
			return r;
		slot = &(*slot)->a;
	}
	return parse_binary(p, 0, slot);
}

static int parse_logic(struct parser *p, enum jinja_kind kind, struct jinja_node **ret)
{
	const char *word = kind == JINJA_OR ? "or" : "and";
	int links = 0, r = kind == JINJA_OR ? parse_logic(p, JINJA_AND, ret) : parse_not(p, ret);

	while (r == 0 && parser_at_name(p, word)) {
		struct jinja_node *node;

		if (++links > JINJA_MAX_DEPTH)
			return parser_refused(p, "an expression this long");
		r = parser_node(p, kind, &node);
		if (r == 0)
			r = parser_advance(p);
		if (r < 0)
			break;
		node->a = *ret;
		r = kind == JINJA_OR ? parse_logic(p, JINJA_AND, &node->b) : parse_not(p, &node->b);
		*ret = node;
	}
	return r;
}

static int parse_choice(struct parser *p, struct jinja_node **ret)
{
	struct jinja_node *node;
	int r = parse_logic(p, JINJA_OR, ret);

	if (r < 0 || !parser_at_name(p, "if"))
		return r;
	r = parser_node(p, JINJA_CHOICE, &node);
	if (r == 0)
		r = parser_advance(p);
	if (r < 0)
		return r;
	node->a = *ret;
	*ret = node;
	r = parse_logic(p, JINJA_OR, &node->b);
	if (r < 0 || !parser_at_name(p, "else"))
		return r;
	r = parser_advance(p);
	return r < 0 ? r : parser_expression(p, &node->c);
}

int parser_expression(struct parser *p, struct jinja_node **ret)
{
	int r;

	if (p->depth == JINJA_MAX_DEPTH)
		return parser_refused(p, "nesting this deep");
	p->depth++;
	r = parse_choice(p, ret);
	p->depth--;
	return r;
}

int parser_condition(struct parser *p, struct jinja_node **ret)
{
	return parse_logic(p, JINJA_OR, ret);
}
