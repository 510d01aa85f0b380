/* SPDX-License-Identifier: MPL-2.0
 * Receives pictures into the program.
 *
 *   cc -o receive receive.c $(pkg-config --cflags --libs gstreamer-1.0 gstreamer-app-1.0)
 *   ./receive [uri of the signalling server [number of pictures]]
 */
#include <gst/app/gstappsink.h>
#include <gst/gst.h>

/* TRUE if there was an error. */
static gboolean
read_bus (GstBus * bus, GstElement * pipeline)
{
  GstMessage *message;
  gboolean failed = FALSE;

  while ((message = gst_bus_pop (bus))) {
    if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR) {
      GError *error = NULL;

      gst_message_parse_error (message, &error, NULL);
      g_printerr ("%s\n", error->message);
      g_error_free (error);
      failed = TRUE;
    } else if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_LATENCY) {
      gst_bin_recalculate_latency (GST_BIN (pipeline));
    }
    gst_message_unref (message);
  }
  return failed;
}

static void
look_at (GstSample * sample, guint64 count)
{
  GstMapInfo map;
  guint64 sum = 0;
  gsize i;

  if (count % 30 || !gst_buffer_map (gst_sample_get_buffer (sample), &map, GST_MAP_READ))
    return;
  for (i = 0; i < map.size; i++)
    sum += map.data[i];
  g_print ("%" G_GUINT64_FORMAT " pictures, mean brightness %" G_GUINT64_FORMAT "\n",
      count, sum / MAX (map.size, 1));
  gst_buffer_unmap (gst_sample_get_buffer (sample), &map);
}

int
main (int argc, char **argv)
{
  GError *error = NULL;
  GstElement *pipeline, *source, *sink;
  GstBus *bus;
  guint64 wanted, count = 0;
  gboolean failed = FALSE;

  gst_init (&argc, &argv);
  wanted = argc > 2 ? g_ascii_strtoull (argv[2], NULL, 10) : G_MAXUINT64;
  pipeline = gst_parse_launch ("dualwebrtcsrc name=source"
      " ! videoconvert ! video/x-raw,format=GRAY8"
      /* Each picture as soon as it is there, the newest if the program is slow. */
      " ! appsink name=pictures sync=false max-buffers=1 drop=true", &error);
  if (error) {
    g_printerr ("%s (is GST_PLUGIN_PATH set? see docs/install.md)\n", error->message);
    g_error_free (error);
    return 1;
  }
  source = gst_bin_get_by_name (GST_BIN (pipeline), "source");
  gst_child_proxy_set (GST_CHILD_PROXY (source), "signaller::uri",
      argc > 1 ? argv[1] : "ws://127.0.0.1:8443", NULL);
  sink = gst_bin_get_by_name (GST_BIN (pipeline), "pictures");
  bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);

  while (count < wanted && !failed && !gst_app_sink_is_eos (GST_APP_SINK (sink))) {
    GstSample *sample;

    failed = read_bus (bus, pipeline);
    sample = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 100 * GST_MSECOND);
    if (sample) {
      look_at (sample, ++count);
      gst_sample_unref (sample);
    }
  }

  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (bus);
  gst_object_unref (sink);
  gst_object_unref (source);
  gst_object_unref (pipeline);
  g_print ("%" G_GUINT64_FORMAT " pictures received\n", count);
  return failed;
}
