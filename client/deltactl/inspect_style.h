/*
 * The style sheet of the pages of `deltactl inspect --html`.
 */
#pragma once

extern const char inspect_style[];
