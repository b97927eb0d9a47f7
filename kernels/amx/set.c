#include "kernels/amx/amx.h"

#include <sys/syscall.h>
#include <unistd.h>

/* Of arch_prctl(); the C library's headers do not name them. */
#define REQUEST_STATE_PERMISSION 0x1023
#define STATE_TILE_DATA 18

int amx_permit(void)
{
	return syscall(SYS_arch_prctl, REQUEST_STATE_PERMISSION, STATE_TILE_DATA) < 0 ? -errno : 0;
}

void kernels_amx(struct kernels *k)
{
	k->panel_bytes = amx_panel_bytes;
	k->panel_parts = amx_panel_parts;
	k->panel_fill = amx_panel_fill;
	k->matmul_panel = amx_matmul_panel;
	k->matmul = amx_matmul;
	k->matmul_int = amx_matmul_int;
}
