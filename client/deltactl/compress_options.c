#include "client/deltactl/compress_options.h"

#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/compress_deltadq.h"
#include "client/deltactl/number.h"
#include "client/deltactl/word.h"

#include <getopt.h>
#include <string.h>

#define METHOD_LIST "list" /* in the place of a name */

const char compress_options_help[] =
	"  --base DIR               the model that the fine-tune started from\n"
	"  --tuned DIR              the fine-tune\n"
	"  --adapter DIR            instead of --tuned: a LoRA adapter as PEFT writes it, whose\n"
	"                           factors are stored as they are\n"
	"  -o, --output FILE        the delta file to make\n"
	"  --ratio N                16-bit size of the projections over their size in the file,\n"
	"                           everything counted (default 16)\n"
	"  --bits B                 --ratio 16/B; methods of whole codes: their width\n"
	"  --method NAME            how the change becomes bytes (default auto); --method list\n"
	"                           shows them all\n"
	"  --embedding HOW          embedding and head: exact (the default but for --file-ratio\n"
	"                           and --keep), 8, 4, 3, 2 or 1 bits a weight, or auto: what\n"
	"                           the rows of tokens that are used are worth\n"
	"  --base-weights KIND      weights of the base that will serve: bf16 (the default), "
	"int8,\n"
	"                           int4, as for import\n"
	"  --against WHAT           make the delta against what that base serves, which it then "
	"fits\n"
	"                           alone (served), or so that it fits every packing (original);\n"
	"                           default: as the method does best\n"
	"  --calibrate FILE         text to calibrate on, documents separated by blank lines\n"
	"                           (default: a general text that deltactl carries)\n"
	"  --calibration-tokens N   most tokens of it to use (default 32768)\n"
	"  --threads N              default: as many as the process may use\n"
	"  --memory SIZE            where the method would take more memory than this, the way "
	"that\n"
	"                           does with less stands in: 512M, 8G (the default), ...\n"
	"  --measure HOW            KL and agreement of the whole file on held-out text: always, "
	"by\n"
	"                           the engine, which also makes a self-test; blocks, one block "
	"of\n"
	"                           one model in memory; never. Default: the engine for models "
	"that\n"
	"                           fit into memory beside each other (2 GiB each), else blocks\n"
	"  --no-resume              begin anew. Otherwise a command that was interrupted, given "
	"again,\n"
	"                           goes on at the block it was in: FILE.partial, which is "
	"removed\n"
	"                           in the end, holds what is done and the texts inside the model\n"
	"  --json                   the report as a JSON object\n"
	"  -q, --quiet              no progress\n" COMPRESS_AUTO_HELP COMPRESS_DELTADQ_HELP;

enum option_value {
	OPTION_BASE = 256,
	OPTION_TUNED,
	OPTION_ADAPTER,
	OPTION_RATIO,
	OPTION_BITS,
	OPTION_METHOD,
	OPTION_BASE_WEIGHTS,
	OPTION_AGAINST,
	OPTION_EMBEDDING,
	OPTION_CALIBRATE,
	OPTION_TOKENS,
	OPTION_THREADS,
	OPTION_MEMORY,
	OPTION_MEASURE,
	OPTION_NO_RESUME,
	OPTION_JSON,
	OPTION_HELP,
};

static const struct option long_options[] = {
	{"base", required_argument, NULL, OPTION_BASE},
	{"tuned", required_argument, NULL, OPTION_TUNED},
	{"adapter", required_argument, NULL, OPTION_ADAPTER},
	{"output", required_argument, NULL, 'o'},
	{"ratio", required_argument, NULL, OPTION_RATIO},
	{"bits", required_argument, NULL, OPTION_BITS},
	{"method", required_argument, NULL, OPTION_METHOD},
	{"embedding", required_argument, NULL, OPTION_EMBEDDING},
	{"base-weights", required_argument, NULL, OPTION_BASE_WEIGHTS},
	{"against", required_argument, NULL, OPTION_AGAINST},
	{"calibrate", required_argument, NULL, OPTION_CALIBRATE},
	{"calibration-tokens", required_argument, NULL, OPTION_TOKENS},
	{"threads", required_argument, NULL, OPTION_THREADS},
	COMPRESS_AUTO_OPTIONS,
	COMPRESS_DELTADQ_OPTIONS,
	{"memory", required_argument, NULL, OPTION_MEMORY},
	{"measure", required_argument, NULL, OPTION_MEASURE},
	{"no-resume", no_argument, NULL, OPTION_NO_RESUME},
	{"json", no_argument, NULL, OPTION_JSON},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, OPTION_HELP},
	{0},
};

/* 0 stands for what was not said. */
static bool set_positive(double *ret)
{
	float value;

	if (!number_f32(optarg, &value) || !(value > 0))
		return false;
	*ret = (double)value;
	return true;
}

static bool set_measure(enum compress_measure *ret)
{
	static const enum compress_measure ways[] = {
		COMPRESS_MEASURE_ENGINE, COMPRESS_MEASURE_BLOCKS, COMPRESS_MEASURE_NEVER};
	static const char *const words[] = {"always", "blocks", "never", NULL};
	size_t i;

	if (!word_find(optarg, words, &i))
		return false;
	*ret = ways[i];
	return true;
}

static bool set_against(enum compress_against *ret)
{
	static const enum compress_against leads[] = {AGAINST_SERVED, AGAINST_ORIGINAL};
	static const char *const words[] = {"served", "original", NULL};
	size_t i;

	if (!word_find(optarg, words, &i))
		return false;
	*ret = leads[i];
	return true;
}

/* True if the value is understood. */
static bool set_option(struct compress_options *o, int option)
{
	if (option >= OPTION_DELTADQ_FIRST && option < OPTION_DELTADQ_END)
		return compress_deltadq_option(option, optarg, &o->settings.options.deltadq);
	if (option >= OPTION_AUTO_FIRST && option < OPTION_AUTO_END)
		return compress_auto_option(option, optarg, &o->automatic, &o->settings.options);
	switch (option) {
	case OPTION_BASE:
		o->base = optarg;
		return true;
	case OPTION_TUNED:
		o->tuned = optarg;
		return true;
	case OPTION_ADAPTER:
		o->adapter = optarg;
		return true;
	case 'o':
		o->output = optarg;
		return true;
	case OPTION_RATIO:
		return set_positive(&o->settings.options.ratio);
	case OPTION_BITS:
		return set_positive(&o->settings.options.bits);
	case OPTION_METHOD:
		o->method = optarg;
		return true;
	case OPTION_EMBEDDING:
		return embedding_choice_parse(optarg, &o->settings.embedding);
	case OPTION_BASE_WEIGHTS:
		return weights_parse(optarg, &o->settings.base_weights);
	case OPTION_AGAINST:
		return set_against(&o->settings.against);
	case OPTION_CALIBRATE:
		o->calibrate = optarg;
		return true;
	case OPTION_TOKENS:
		return number_u32(optarg, &o->settings.calibration_tokens);
	case OPTION_THREADS:
		return number_u32(optarg, &o->settings.n_threads);
	case OPTION_MEMORY:
		return number_bytes(optarg, &o->settings.memory) && o->settings.memory > 0;
	case OPTION_MEASURE:
		return set_measure(&o->settings.measure);
	case OPTION_NO_RESUME:
		o->no_resume = true;
		return true;
	case OPTION_JSON:
		o->json = true;
		return true;
	case 'q':
		o->quiet = true;
		return true;
	default:
		return false;
	}
}

/* Folders and texts are known by what is in them; the others change no part. */
static bool is_remembered(int option)
{
	switch (option) {
	case OPTION_BASE:
	case OPTION_TUNED:
	case OPTION_ADAPTER:
	case OPTION_CALIBRATE:
	case OPTION_THREADS:
	case OPTION_MEASURE:
	case OPTION_NO_RESUME:
	case OPTION_JSON:
	case 'o':
	case 'q':
		return false;
	default:
		return true;
	}
}

static void remember(struct compress_options *o, int option)
{
	if (!is_remembered(option))
		return;
	digest_add(o->said, &option, sizeof(option));
	if (optarg)
		digest_add(o->said, optarg, strlen(optarg) + 1);
}

bool compress_options_list(const struct compress_options *o)
{
	return o->method && strcmp(o->method, METHOD_LIST) == 0;
}

/* What is said together must make sense together; EXIT_USAGE if not. */
static int check_options(struct compress_options *o)
{
	const struct command *self = &command_compress;
	const char *of_adapters = method_taking(METHOD_TAKES_ADAPTERS)->name;
	struct reason reason = {0};

	if (o->adapter && o->tuned)
		return command_usage(self, "--adapter and --tuned exclude each other");
	if (o->adapter && o->method)
		return command_usage(self, "--adapter and --method exclude each other");
	if (o->adapter && (o->settings.options.ratio != 0 || o->settings.options.bits != 0))
		return command_usage(self, "--adapter has a size of its own, there is no ratio");
	if (!o->base || !(o->tuned || o->adapter) || !o->output)
		return command_usage(self, "--base, --tuned or --adapter, and -o are needed");
	if (o->automatic.end_row && !o->automatic.tasks)
		return command_usage(self, "--task-rows are rows of --tasks, which is not given");
	if (o->method && strcmp(o->method, of_adapters) == 0)
		return command_usage(self, "--method %s is what --adapter does", of_adapters);
	if (o->method)
		o->settings.method = o->method;
	if (o->adapter)
		o->settings.method = of_adapters;
	if (compress_settings_check(&o->settings, &reason) < 0)
		return command_usage(self, "%s", reason.text);
	return 0;
}

int compress_options_parse(int argc, char **argv, struct compress_options *o)
{
	const struct command *self = &command_compress;
	int option, index = 0;

	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "o:q", long_options, &index)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (option == '?')
			return command_bad_option(self, argv);
		if (!set_option(o, option))
			return command_usage(self, "'%s' is not what --%s takes", optarg,
				long_options[index].name);
		remember(o, option);
	}
	if (optind < argc)
		return command_usage(self, "unexpected argument '%s'", argv[optind]);
	return compress_options_list(o) ? 0 : check_options(o);
}
