#include "client/deltad.h"

#include <errno.h>
#include <string.h>

const char *deltad_strerror(int error)
{
	const char *text;

	switch (-error) {
	case 0:
		return "success";
	case ENOENT:
		return "no daemon is there, or no such stream is running";
	case ECONNREFUSED:
		return "no daemon answers";
	case ECONNRESET:
		return "the daemon has closed the connection";
	case EPROTO:
		return "the other side broke the protocol";
	case EPROTONOSUPPORT:
		return "the daemon speaks another version of the protocol";
	case EPERM:
		return "not permitted";
	case ENXIO:
		return "unknown variant";
	case EIO:
		return "loading the variant failed";
	case EMEDIUMTYPE:
		return "the variant belongs to another base";
	case ENODATA:
		return "the variant is not resident";
	case ENOSPC:
		return "over the daemon's memory budget";
	case EBUSY:
		return "the daemon is busy";
	case E2BIG:
		return "prompt and answer exceed the context";
	case ENOMSG:
		return "the variant has no chat format";
	case ESHUTDOWN:
		return "the daemon is shutting down";
	case EREMOTEIO:
		return "the daemon failed";
	default:
		text = strerrordesc_np(-error);
		return text ? text : "unknown error";
	}
}
