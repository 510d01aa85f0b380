/* SPDX-License-Identifier: MPL-2.0
 * Sends a test picture, and says each second how it goes.
 *
 *   cc -o send send.c $(pkg-config --cflags --libs gstreamer-1.0)
 *   ./send [port of the signalling server]
 */
#include <gst/gst.h>

static gboolean
on_message (GstBus * bus, GstMessage * message, gpointer user_data)
{
  GMainLoop *loop = user_data;
  GError *error = NULL;

  (void) bus;
  switch (GST_MESSAGE_TYPE (message)) {
    case GST_MESSAGE_ERROR:
      gst_message_parse_error (message, &error, NULL);
      g_printerr ("%s\n", error->message);
      g_clear_error (&error);
      g_main_loop_quit (loop);
      break;
    case GST_MESSAGE_WARNING:
      gst_message_parse_warning (message, &error, NULL);
      g_print ("%s\n", error->message);
      g_clear_error (&error);
      break;
    case GST_MESSAGE_EOS:
      g_main_loop_quit (loop);
      break;
    default:
      break;
  }
  return G_SOURCE_CONTINUE;
}

static gboolean
tell (gpointer user_data)
{
  GstStructure *stats = NULL;
  gboolean dual = FALSE;
  guint64 pictures = 0;

  g_object_get (user_data, "stats", &stats, NULL);
  gst_structure_get (stats, "dual", G_TYPE_BOOLEAN, &dual,
      "pictures-encoded", G_TYPE_UINT64, &pictures, NULL);
  g_print ("%s, %s stream, %" G_GUINT64_FORMAT " pictures\n",
      gst_structure_get_string (stats, "connection-state"),
      dual ? "dual" : "single", pictures);
  gst_structure_free (stats);
  return G_SOURCE_CONTINUE;
}

int
main (int argc, char **argv)
{
  GError *error = NULL;
  GstElement *pipeline, *sink;
  GMainLoop *loop;
  GstBus *bus;
  guint watch;

  gst_init (&argc, &argv);
  pipeline = gst_parse_launch ("videotestsrc is-live=true pattern=ball"
      " ! video/x-raw,width=640,height=360,framerate=30/1"
      " ! dualwebrtcsink name=sink run-signalling-server=true", &error);
  if (error) {
    g_printerr ("%s (is GST_PLUGIN_PATH set? see docs/install.md)\n", error->message);
    g_error_free (error);
    return 1;
  }
  sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
  if (argc > 1)
    g_object_set (sink, "signalling-server-port", (guint) g_ascii_strtoull (argv[1], NULL, 10), NULL);
  /* What belongs to a part of it goes by the name of the part. */
  gst_child_proxy_set (GST_CHILD_PROXY (sink), "encoder::bitrate", 1000000, NULL);

  loop = g_main_loop_new (NULL, FALSE);
  bus = gst_element_get_bus (pipeline);
  watch = gst_bus_add_watch (bus, on_message, loop);
  g_timeout_add_seconds (1, tell, sink);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_main_loop_run (loop);

  gst_element_set_state (pipeline, GST_STATE_NULL);
  g_source_remove (watch);
  gst_object_unref (bus);
  gst_object_unref (sink);
  gst_object_unref (pipeline);
  g_main_loop_unref (loop);
  return 0;
}
