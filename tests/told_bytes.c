#include "tests/told_bytes.h"

#include "store/base.h"
#include "store/image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

void told_bytes_check(int fd, const struct compress_report *r)
{
	uint64_t projections = 0, outer = 0, n_bytes;
	struct reason reason = {0};
	const uint8_t *records;
	struct image *image;
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, r->file_bytes);
	assert_int_equal(r->projection_bytes + r->embedding_bytes + r->other_bytes, r->file_bytes);
	assert_int_equal(image_load(fd, &image, NULL, &reason), 0);
	records = image_section(image, SECTION_TENSORS, &n_bytes);
	for (uint64_t at = 0; at < n_bytes; at += sizeof(struct tensor_record)) {
		struct tensor_record record;

		memcpy(&record, records + at, sizeof(record));
		if (tensor_role_is_projection((enum tensor_role)record.role))
			projections += record.bytes + sizeof(record);
		else if (record.role == ROLE_EMBED || record.role == ROLE_HEAD)
			outer += record.bytes + sizeof(record);
	}
	assert_int_equal(projections, r->projection_bytes);
	assert_int_equal(outer, r->embedding_bytes);
	image_free(image);
}

const struct method_figure *told_figure(const struct compress_report *r, const char *name)
{
	for (size_t i = 0; i < r->n_figures; i++)
		if (strcmp(r->figures[i].name, name) == 0)
			return &r->figures[i];
	return NULL;
}
